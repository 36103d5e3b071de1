"""Finds the holes in the log (-wal) of a database that SQLite takes for its end.

It reads a log up to the first frame whose checksum is wrong. So it must, for a power cut leaves half of the last
transaction. But a damage further ahead looks the same to it, and what was committed after that would be lost without
a word. A transaction is begun only when the one before is on the disk (synchronous=FULL), so behind a torn one there is
no other: where two are found behind a wrong frame, it is damage.

The format: https://www.sqlite.org/fileformat2.html#walformat
"""

import struct
from array import array
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct(">8I")  # magic, version, page size, number, salt (2), checksum (2)
_FRAME: Final = struct.Struct(">6I")  # page, pages in all after a commit or 0, salt (2), checksum (2)
_MAGIC: Final = 0x377F0682  # plus 1 where checksums are made of big-endian words
_VERSION: Final = 3007000
_MASK: Final = 0xFFFFFFFF

Sums = tuple[int, int]


def find_hole(log: Path, *, durable: bool = True) -> str:
    """What is wrong with a log, or ''. Nobody may have its database open.

    Unless commits were `durable`, a power cut may have left any hole, but still a right header.
    """
    data = log.read_bytes() if log.exists() else b""
    return _find_hole(data if durable else data[: _HEADER.size])


def _find_hole(log: bytes) -> str:
    if len(log) < _HEADER.size or not any(log[: _HEADER.size]):
        return ""  # it was being made
    magic, version, page_bytes, _, *salt, _, _ = _HEADER.unpack_from(log)
    big_endian = magic == _MAGIC + 1
    sums = _sums(log[: _HEADER.size - 8], (0, 0), big_endian)
    if magic & ~1 != _MAGIC or version != _VERSION or sums != _HEADER.unpack_from(log)[-2:]:
        return "the header is wrong"
    frame_bytes = _FRAME.size + page_bytes
    wrong, commits = -1, 0
    for at in range(_HEADER.size, len(log) - frame_bytes + 1, frame_bytes):
        _, commit, *frame_salt, first, second = _FRAME.unpack_from(log, at)
        good = frame_salt == salt
        if good:
            page_at = at + _FRAME.size
            expected = _sums(log[page_at : page_at + page_bytes], _sums(log[at : at + 8], sums, big_endian), big_endian)
            good = expected == (first, second)
        # Each checksum goes on from the one before as it is written there, so that a wrong frame does not hide others.
        sums = first, second
        if not good:
            wrong = at if wrong < 0 else wrong
            commits = 0
        elif wrong >= 0 and commit:
            commits += 1
            if commits == 2:
                return f"a frame at {wrong} is wrong, and others follow"
    return ""


def _sums(data: bytes, sums: Sums, big_endian: bool) -> Sums:
    words = array("I", data)
    if big_endian == (struct.pack("=H", 1) == b"\1\0"):
        words.byteswap()
    first, second = sums
    each = iter(words)
    for even, odd in zip(each, each, strict=True):
        first = first + even + second & _MASK
        second = second + odd + first & _MASK
    return first, second
