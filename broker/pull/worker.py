"""A process that recognises what questions want, so that looking for words takes no time from delivering messages.

It reads batches from its standard input and writes what is decided to its standard output, each a length of four bytes
and MessagePack. It ends when its input does: with the broker, however that ends.
"""

import gc
import signal
import sqlite3
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from broker.bridge.facts import Questioned
from broker.errors import Failed
from broker.pull.asker import asker_of
from broker.pull.asking import QuestionRefused
from broker.pull.question import Asker, Decided, Question
from broker.pull.recognise import Recogniser
from broker.store.content import connect
from broker.store.database import failure


class Batch(msgspec.Struct, array_like=True):
    """Questions to be decided upon, as of a time (milliseconds since 1970, UTC)."""

    at: int
    questions: list[Questioned]


class Found(msgspec.Struct, array_like=True, omit_defaults=True):
    """What is decided of one: that, or the code of a refusal with its words, or what a bug said."""

    asker: Asker | None = None
    decided: Decided | None = None
    code: str = ""
    message: str = ""
    bug: str = ""


class Results(msgspec.Struct, array_like=True):
    """Of a batch; or why the library cannot be read, and what to do."""

    found: list[Found]
    failed: str = ""
    remedy: str = ""


HEAD_BYTES: Final = 4
encode: Final = msgspec.msgpack.Encoder().encode
decode_batch: Final = msgspec.msgpack.Decoder(Batch).decode
decode_results: Final = msgspec.msgpack.Decoder(Results).decode


def frame(content: bytes) -> bytes:
    """As it goes through a pipe."""
    return len(content).to_bytes(HEAD_BYTES) + content


class Worker:
    """Decides upon batches."""

    def __init__(self, content: Path, records: Path) -> None:
        self._content = content
        self._db = connect(content, records)
        self._recogniser = Recogniser()

    def results(self, batch: Batch) -> Results:
        """What becomes of these questions."""
        now = datetime.fromtimestamp(batch.at / 1000, UTC)
        try:
            return Results([self._found(one, now) for one in batch.questions])
        except sqlite3.Error as error:
            failed = failure(self._content, error) or Failed(f"{self._content}: {error}")
            return Results([], failed.message, failed.remedy)

    def _found(self, one: Questioned, now: datetime) -> Found:
        try:
            asker = asker_of(self._db, one.brand, one.device, one.user, one.store, one.locale)
            question = Question(text=one.text, locale=one.locale, choice=one.choice)
            return Found(asker, self._recogniser.decide(self._db, asker, question, now))
        except QuestionRefused as error:
            return Found(code=error.code, message=error.message)
        except sqlite3.DatabaseError as error:
            if failure(self._content, error) is not None:
                raise
            return Found(bug=traceback.format_exc())
        except Exception:  # noqa: BLE001 - one question does not stop the others
            return Found(bug=traceback.format_exc())

    def close(self) -> None:
        """Let go of the library."""
        self._db.close()

    def serve(self, source: BinaryIO, sink: BinaryIO) -> None:
        """Until the source ends."""
        while len(head := source.read(HEAD_BYTES)) == HEAD_BYTES:
            batch = decode_batch(source.read(int.from_bytes(head)))
            sink.write(frame(encode(self.results(batch))))
            sink.flush()


def main(arguments: Sequence[str]) -> None:
    """Serve the broker that started us. It says when to end, whoever signals to its group or its unit."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    content, records = map(Path, arguments)
    gc.freeze()  # what was imported is not looked at again
    gc.set_threshold(50_000, 20, 100)  # a question leaves no cycles
    try:
        Worker(content, records).serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:  # the broker is gone
        sys.stderr.close()


if __name__ == "__main__":
    main(sys.argv[1:])
