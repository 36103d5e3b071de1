"""Tokens, one-time codes and passwords: made, hashed, compared.

Tokens and codes are random and long, so SHA-256 keeps them safe at rest and costs a microsecond. Passwords are what
people choose: argon2id, which costs 64 MiB and a tenth of a second, so never on the event loop and never more than a
few at a time.
"""

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Final

import argon2
import msgspec

from broker.errors import Refused

TOKEN_PREFIX: Final = "pbt_"  # noqa: S105 - what scanners for leaked secrets look for
TOKEN_BYTES: Final = 32
# Crockford's base 32: no I, L, O or U, so a code survives being read aloud. 20 characters are 100 bits.
CODE_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_CHARACTERS: Final = 20
PASSWORD_BYTES_MIN: Final = 8
PASSWORD_BYTES_MAX: Final = 1024
# Two workers at 64 MiB are 128 MiB; 64 waiting at 0.1 to 0.3 s each are answered within 10 s, half of what a client
# that connects is given.
WORKERS: Final = 2
WAITING_MAX: Final = 64

_CODE = re.compile(rf"[{CODE_ALPHABET}]{{{CODE_CHARACTERS}}}")
_READ_AS = str.maketrans("ILO", "110", "- \t\r\n")


class Discreet(msgspec.Struct):
    """A struct that shows its `_secret` fields to nobody who prints it."""

    _secret: ClassVar[frozenset[str]] = frozenset()

    def __rich_repr__(self) -> Any:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            yield field, "…" if value and field in self._secret else value

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={value!r}" for field, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"


def new_token() -> str:
    """A secret of 256 random bits for a brand's server: `pbt_` and 43 characters."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def new_code() -> str:
    """A one-time secret of 100 random bits that people can type: `XXXXX-XXXXX-XXXXX-XXXXX`."""
    return _grouped("".join(secrets.choice(CODE_ALPHABET) for _ in range(CODE_CHARACTERS)))


def normal_code(text: str) -> str | None:
    """The code that was typed, whatever its case and dashes and with O for 0 or I for 1; None when it is none."""
    code = text.upper().translate(_READ_AS)
    return _grouped(code) if _CODE.fullmatch(code) else None


def _grouped(code: str) -> str:
    return "-".join(code[at : at + 5] for at in range(0, CODE_CHARACTERS, 5))


def digest(secret: str | bytes) -> bytes:
    """What is kept of a token or code. Only for secrets that nobody can guess."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def same(one: bytes, other: bytes) -> bool:
    """Whether two digests are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


class PasswordHasher:
    """argon2id in a few threads, with a bounded number of callers waiting.

    Close it: its threads keep the process alive. They start with the first password.
    """

    def __init__(self, *, memory_kib: int = 64 << 10, time_cost: int = 3, waiting_max: int = WAITING_MAX) -> None:
        # One lane: the workers are the parallelism, and more would only take cores from the loop.
        self._argon2 = argon2.PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
        # A hash of nothing: verifying against it is the same work, and fails.
        salt, tag = (base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (16, 32))
        self._nobody = f"$argon2id$v=19$m={memory_kib},t={time_cost},p=1${salt}${tag}"
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="password")
        self._work: set[Future[Any]] = set()
        self._waiting_max = waiting_max

    async def hash(self, password: str) -> str:
        """The hash to keep. `Refused` for a password that is too short or too long, or when too many wait (0x89)."""
        if not PASSWORD_BYTES_MIN <= len(password.encode()) <= PASSWORD_BYTES_MAX:
            raise Refused(
                "that password is too short or too long",
                remedy=f"Use {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes; to make one: openssl rand -base64 24",
            )
        return str(await self._do(self._argon2.hash, password))

    async def verify(self, password_hash: str | None, password: bytes) -> bool:
        """Whether the password is the one that was hashed. Without a hash: the same work, and False.

        Raises `Refused` (0x89) when too many wait already.
        """
        if len(password) > PASSWORD_BYTES_MAX:
            return False
        return bool(await self._do(self._verify, password_hash or self._nobody, password))

    def _verify(self, password_hash: str, password: bytes) -> bool:
        try:
            return self._argon2.verify(password_hash, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    async def _do(self, function: Any, *arguments: Any) -> Any:
        if len(self._work) >= self._waiting_max:
            raise Refused("too many passwords are being checked", reason=0x89, remedy="Try again in a few seconds.")
        work = self._pool.submit(function, *arguments)
        # Leaves when the work is done, not when its caller stops waiting.
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Drop what waits, and wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)
