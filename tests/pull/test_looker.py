"""The process that recognises questions: it is there when it is needed, and goes with the broker."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.library import AT, Library, item, library

from broker.bridge.facts import Questioned
from broker.errors import Failed
from broker.pull import looker as module
from broker.pull.asking import Code, QuestionRefused
from broker.pull.looker import Bug, Looker
from broker.pull.worker import Batch, Worker, decode_results, encode, frame


def question(text: str, choice: str = "", brand: str = "acme") -> Questioned:
    return Questioned("q1", brand, "kiosk-7", "ada", "milano", text, "it", choice, "t", b"", AT)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Library]:
    async with library(tmp_path) as made:
        await made.put(item("torta", "Torta", body="{{ data.price | number }}", data={"price": 3}))
        yield made


@pytest.fixture
async def looker(shop: Library, tmp_path: Path) -> AsyncIterator[Looker]:
    looker = Looker(shop.content.path, tmp_path / "records.db", lambda *_, **__: None)
    yield looker
    await looker.stop()


async def test_each_question_has_its_answer(looker: Looker) -> None:
    first, second, third = await looker.look([question("torta"), question("", "x"), question("pane")], AT)
    assert isinstance(first, tuple)
    asker, decided = first
    assert (asker.user, decided.shown.body, decided.shown.data) == ("ada", "3,00", {"price": 3})
    assert isinstance(second, QuestionRefused)
    assert second.code == Code.UNKNOWN_CHOICE
    assert isinstance(third, tuple)
    assert third[1].outcome == "nothing"


async def test_it_is_started_again_when_it_was_killed(looker: Looker) -> None:
    process = await looker.start()
    process.kill()
    await process.wait()
    assert len(await looker.look([question("torta")], AT)) == 1
    assert (await looker.start()).pid != process.pid


async def test_killed_in_the_middle_of_a_batch_it_is_asked_again(looker: Looker) -> None:
    process = await looker.start()
    os.kill(process.pid, signal.SIGSTOP)
    looking = asyncio.ensure_future(looker.look([question("torta")], AT))
    await asyncio.sleep(0)
    process.kill()
    assert len(await looking) == 1


async def test_one_that_hangs_is_ended_and_another_asked(
    shop: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.05)
    monkeypatch.setattr(module, "QUESTIONS_TOGETHER_S", 0.05)

    def log(*_: object, **__: object) -> None:
        monkeypatch.setattr(module, "QUESTIONS_TOGETHER_S", 60.0)  # the next has time to start

    looker = Looker(shop.content.path, tmp_path / "records.db", log)
    process = await looker.start()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert len(await looker.look([question("torta")], AT)) == 1
    finally:
        await looker.stop()
    assert process.returncode == -signal.SIGKILL


async def test_a_process_that_ends_at_once_is_said(tmp_path: Path) -> None:
    looker = Looker(tmp_path / "none.db", tmp_path / "none.db", lambda *_, **__: None)
    with pytest.raises(Failed, match="ends or hangs"):
        await looker.look([question("torta")], AT)


async def test_signals_to_the_whole_group_do_not_end_it_before_the_broker(looker: Looker) -> None:
    process = await looker.start()
    await looker.look([question("torta")], AT)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(process.pid, number)
    assert len(await looker.look([question("torta")], AT)) == 1


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    for name in ("content", "records"):
        (tmp_path / f"{name}.db").touch()
    arguments = [
        sys.executable,
        "-m",
        "broker.pull.worker",
        *(str(tmp_path / f"{one}.db") for one in ("content", "records")),
    ]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()


async def test_a_bug_costs_one_question(shop: Library, tmp_path: Path) -> None:
    await shop.content.set_rules("rival", "[]")  # that is not what a row of rules may be
    worker = Worker(shop.content.path, tmp_path / "records.db")
    bad, good = worker.results(Batch(AT, [question("torta", brand="rival"), question("torta")])).found
    assert "ValidationError" in bad.bug
    assert good.decided is not None
    worker.close()


async def test_a_library_that_cannot_be_read_is_said(shop: Library, tmp_path: Path) -> None:
    await shop.content.read(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    content = shop.content.path.read_bytes()
    shop.content.path.write_bytes(content[:4096] + b"x" * (len(content) - 4096))
    worker = Worker(shop.content.path, tmp_path / "records.db")
    results = decode_results(encode(worker.results(Batch(AT, [question("torta")]))))
    assert (results.found, "damaged" in results.failed) == ([], True)
    assert "store check" in results.remedy
    worker.close()


def test_a_frame_says_how_long_it_is() -> None:
    assert frame(b"abc") == b"\0\0\0\3abc"


async def test_bugs_are_told_by_their_words(looker: Looker, shop: Library) -> None:
    await shop.content.set_rules("acme", "[]")
    (result,) = await looker.look([question("torta")], AT)
    assert isinstance(result, Bug)
    assert "ValidationError" in str(result)
