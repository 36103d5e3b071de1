"""Has questions decided upon by a process of their own (`worker.py`), which is there from the first one on."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from broker.bridge.facts import Questioned
from broker.errors import Failed
from broker.limits import QUESTIONS_TOGETHER_S
from broker.pull.asking import Code, QuestionRefused
from broker.pull.question import Asker, Decided
from broker.pull.worker import HEAD_BYTES, Batch, Found, decode_results, encode, frame

STOP_S: Final = 2.0

Result = tuple[Asker, Decided] | Exception


class Bug(Exception):
    """What a bug said in the other process."""


class Looker:
    """Asks it, one batch at a time. It is started again where it has ended. Stop it."""

    def __init__(self, content: Path, records: Path, log: Callable[..., object]) -> None:
        self._arguments = (str(content), str(records))
        self._log = log
        self._process: Process | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> Process:
        """Have it there."""
        async with self._starting:
            if self._process is None:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "broker.pull.worker",
                    *self._arguments,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
            return self._process

    async def look(self, questions: Sequence[Questioned], at: int) -> list[Result]:
        """What is decided of each. A process that does not answer in time is ended, and another asked.

        Raises `Failed` when they cannot be looked up.
        """
        batch = frame(encode(Batch(at, list(questions))))
        for last in (False, True):
            try:
                results = decode_results(await self._exchanged(await self.start(), batch))
                break
            except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError) as error:
                await self.stop()
                self._log(
                    "the process that recognises questions has ended or hung", error=str(error) or "no answer in time"
                )
                if last:
                    raise Failed("questions cannot be recognised: the process for that ends or hangs") from error
        if results.failed:
            raise Failed(results.failed, remedy=results.remedy)
        return [_result(one) for one in results.found]

    async def _exchanged(self, process: Process, batch: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(QUESTIONS_TOGETHER_S):
            process.stdin.write(batch)
            await process.stdin.drain()
            return await process.stdout.readexactly(int.from_bytes(await process.stdout.readexactly(HEAD_BYTES)))

    async def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _result(one: Found) -> Result:
    if one.asker is not None and one.decided is not None:
        return one.asker, one.decided
    if one.code:
        return QuestionRefused(Code(one.code), one.message)
    return Bug(one.bug)
