"""Ids of messages, questions, conversations: time-ordered, unique, short, safe in a topic, a URL, a file name."""

import secrets
import time
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, which sorts as its numbers do
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]  # ten bits at a time


class MessageIds:
    """Makes ids: a letter, 48 bits of milliseconds, 16 bits that count within one, and 35 random bits of this process.

    A restart within a millisecond, or two brokers, differ in the last ones. An id is a name and no secret.
    """

    def __init__(self, letter: str = "m") -> None:
        self._letter = letter
        self._last_ms = 0
        self._count = 0
        self._prefix = ""  # what the ids of this time have in common: it changes each 256 ms
        self._process = "".join(secrets.choice(_ALPHABET) for _ in range(7))

    def next(self) -> str:
        """A new id, later in order than all before it, even where the clock was set back."""
        now = time.time_ns() // 1_000_000
        if now > self._last_ms:
            self._last_ms, self._count = now, 0
        else:
            self._count += 1
            if self._count > 0xFFFF:
                self._last_ms, self._count = self._last_ms + 1, 0
        number = self._last_ms << 22 | self._count << 6
        pairs = _PAIRS
        if not self._count:
            self._prefix = (
                f"{self._letter}{pairs[number >> 60 & 1023]}{pairs[number >> 50 & 1023]}"
                f"{pairs[number >> 40 & 1023]}{pairs[number >> 30 & 1023]}"
            )
        return (
            self._prefix
            + pairs[number >> 20 & 1023]
            + pairs[number >> 10 & 1023]
            + pairs[number & 1023]
            + self._process
        )
