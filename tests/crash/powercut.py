"""A broker whose machine loses power when it is killed: only what was synced is sure to be there."""

import os
import random
import sys
from pathlib import Path

from crash import disk
from crash.process import BrokerProcess
from support.cli import environment

_SECTOR_BYTES = 512


class PowerCutProcess(BrokerProcess):
    """Runs with a record of its writes, and after a kill puts its files into a state that a power cut may leave.

    That is: each write after the last sync of its file was done, not done, or done in part. Files are renamed and
    deleted at once, and those that are not databases stay as they are.
    """

    def __init__(self, directory: Path, seed: str) -> None:
        super().__init__(directory)
        self._record = directory / "record"
        self._random = random.Random(seed)
        self._before: dict[Path, bytes] = {}

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "crash.disk", str(self._record), *super().command[1:]]

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        return environment(PYTHONPATH=os.pathsep.join(filter(None, paths)))

    async def start(self) -> None:
        """Start it on files whose content is known."""
        self._record.unlink(missing_ok=True)
        self._before = {path: path.read_bytes() for path in self.data.glob("*.db*") if not path.name.endswith("-shm")}
        await super().start()

    def killed(self) -> None:
        """Lose what was not synced."""
        operations = list(disk.read(self._record))
        synced = {op.path: n for n, op in enumerate(operations) if op.kind == disk.SYNC}
        files = {path: bytearray(content) for path, content in self._before.items()}
        for n, op in enumerate(operations):
            sure = n < synced.get(op.path, 0)
            if op.kind == disk.DELETE:
                files.pop(op.path, None)
            elif op.kind == disk.RENAME:
                if op.path in files:
                    files[Path(os.fsdecode(op.data))] = files.pop(op.path)
            elif sure or self._random.random() < 0.5:
                self._apply(files.setdefault(op.path, bytearray()), op, sure)
        for path in self.data.glob("*.db*"):
            path.unlink()
        for path, content in files.items():
            path.write_bytes(content)

    def _apply(self, file: bytearray, op: disk.Operation, sure: bool) -> None:
        if op.kind == disk.TRUNCATE:
            del file[op.offset :]
        elif op.kind == disk.WRITE:
            data = op.data
            if not sure and self._random.random() < 0.3:
                data = data[: self._random.randrange(len(data)) // _SECTOR_BYTES * _SECTOR_BYTES]
            file += bytes(max(0, op.offset + len(data) - len(file)))
            file[op.offset : op.offset + len(data)] = data
