"""`pushbroker` with a record of what SQLite writes and syncs: python -m crash.disk RECORD serve ...

What a power cut leaves is what was synced, and anything of the rest. Killing a process shows nothing of that, for the
kernel keeps what was written. So the functions of SQLite's file layer that write are replaced by ones that note what
they do, without the broker's knowledge.
"""

import _sqlite3
import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

WRITE: Final = 0
TRUNCATE: Final = 1  # to the length `offset`
SYNC: Final = 2
DELETE: Final = 3
RENAME: Final = 4  # to the path in `data`

_HEADER: Final = struct.Struct("<BHqI")  # kind, length of the path, offset, length of the data
# SQLITE_OPEN_MAIN_DB, _MAIN_JOURNAL, _WAL: files of a database, not temporary ones.
_RECORDED: Final = 0x00000100 | 0x00000800 | 0x00080000


class Operation(NamedTuple):
    """Something that was done to a file."""

    kind: int
    path: Path
    offset: int
    data: bytes


def read(record: Path) -> Iterator[Operation]:
    """What was recorded; the last of it may have been cut off."""
    content = record.read_bytes() if record.exists() else b""
    pos = 0
    while pos + _HEADER.size <= len(content):
        kind, path_length, offset, length = _HEADER.unpack_from(content, pos)
        begin = pos + _HEADER.size + path_length
        pos = begin + length
        if pos <= len(content):
            yield Operation(kind, Path(os.fsdecode(content[begin - path_length : begin])), offset, content[begin:pos])


# -- in the broker's process -------------------------------------------------------------------------------------------

_File = ctypes.c_void_p
_Open = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, _File, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
)
_Delete = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, _File, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, _File, ctypes.c_int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _File, ctypes.c_int)


class _Methods(ctypes.Structure):
    """sqlite3_io_methods."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("close", ctypes.c_void_p),
        ("read", ctypes.c_void_p),
        ("write", _Write),
        ("truncate", _Truncate),
        ("sync", _Sync),
        ("rest", ctypes.c_void_p * 13),
    )


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, as far as it matters."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("path_max", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("open", _Open),
        ("delete", _Delete),
    )


def install(record: Path) -> None:
    """Have all that SQLite writes in this process written to `record`, too."""
    out = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    paths: dict[int, bytes] = {}  # by the address of the open file

    def note(kind: int, path: bytes, offset: int = 0, data: bytes = b"") -> None:
        os.write(out, _HEADER.pack(kind, len(path), offset, len(data)) + path + data)

    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))  # through it, the one that this Python uses
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    vfs = library.sqlite3_vfs_find(None).contents
    tables: dict[int, _Methods] = {}  # by the address of the original

    def recording(original: _Methods) -> _Methods:
        # The functions of the original, not the fields, which are about to be shared.
        write, truncate = _Write(_address(original.write)), _Truncate(_address(original.truncate))
        sync = _Sync(_address(original.sync))

        def noted_write(file: int, data: int, length: int, offset: int) -> int:
            note(WRITE, paths[file], offset, ctypes.string_at(data, length))
            return int(write(file, data, length, offset))

        def noted_truncate(file: int, length: int) -> int:
            note(TRUNCATE, paths[file], length)
            return int(truncate(file, length))

        def noted_sync(file: int, flags: int) -> int:
            code = int(sync(file, flags))
            note(SYNC, paths[file])
            return code

        table = _Methods.from_buffer_copy(original)
        table.write, table.truncate, table.sync = _Write(noted_write), _Truncate(noted_truncate), _Sync(noted_sync)
        return table

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename":
            note(RENAME, os.fsencode(arguments[0]), 0, os.fsencode(arguments[1]))
        elif event == "os.remove":
            note(DELETE, os.fsencode(arguments[0]))

    open_, delete = _Open(_address(vfs.open)), _Delete(_address(vfs.delete))

    def noted_open(vfs: int, path: bytes, file: int, flags: int, flags_out: Any) -> int:
        code = int(open_(vfs, path, file, flags, flags_out))
        methods = ctypes.c_void_p.from_address(file)  # the first field of sqlite3_file
        if methods.value and flags & _RECORDED:
            paths[file] = path
            if methods.value not in tables:
                tables[methods.value] = recording(_Methods.from_address(methods.value))
            methods.value = ctypes.addressof(tables[methods.value])
        return code

    def noted_delete(vfs: int, path: bytes, sync: int) -> int:
        note(DELETE, path)
        return int(delete(vfs, path, sync))

    sys.addaudithook(audit)
    vfs.open, vfs.delete = _Open(noted_open), _Delete(noted_delete)
    _kept.append((vfs, tables))


_kept: list[object] = []  # what SQLite calls must not be collected


def _address(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address
    return address


if __name__ == "__main__":
    install(Path(sys.argv.pop(1)))
    from broker.command import main

    main()
