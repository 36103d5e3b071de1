"""Message ids: time-ordered, unique, short, and safe in a topic, a URL and a file name."""

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, which sorts as its numbers do
LENGTH = 22


class MessageIds:
    """Makes ids: `m`, 48 bits of milliseconds, 16 bits that count within one, 40 random bits that part restarts."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._count = 0

    def next(self) -> str:
        """A new id, later in order than all before it, even where the clock was set back."""
        now = time.time_ns() // 1_000_000
        if now > self._last_ms:
            self._last_ms, self._count = now, 0
        else:
            self._count += 1
            if self._count > 0xFFFF:
                self._last_ms, self._count = self._last_ms + 1, 0
        number = self._last_ms << 56 | self._count << 40 | secrets.randbits(40)
        return "m" + "".join([_ALPHABET[number >> shift & 31] for shift in range(100, -1, -5)])
