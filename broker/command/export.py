"""Writes what is known of a person as one JSON document, as it comes, so that none of it has to fit into memory."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from broker.command.output import printable_json
from broker.errors import Failed


def write_export(parts: Iterator[Mapping[str, Any]], file: IO[str]) -> dict[str, int]:
    """Write a head and rows by section into one object. Returns how many rows there were of each section."""
    head = dict(next(parts))
    sections = head.pop("sections")
    file.write("{" + ",".join(f"\n{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()))
    written: list[str] = []
    for part in parts:
        if "end" in part:
            break
        section, rows = part["section"], part["rows"]
        if section not in written:
            file.write(f"{_end(written)},\n{json.dumps(section)}: [\n")
            written.append(section)
        else:
            file.write(",\n")
        file.write(",\n".join(printable_json(json.dumps(row, ensure_ascii=False)) for row in rows))
    file.write(_end(written))
    for section in sections:
        if section not in written:
            file.write(f",\n{json.dumps(section)}: []")
    file.write("\n}\n")
    counts: dict[str, int] = part["counts"]
    return counts


def _end(written: list[str]) -> str:
    return "\n]" if written else ""


@contextmanager
def private_file(path: Path) -> Iterator[IO[str]]:
    """A file that nobody else may read; it is in its place when it is whole."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    if not path.parent.is_dir():
        raise Failed(f"cannot write {path}: No such file or directory", remedy="Name a file in a folder that is there.")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)
