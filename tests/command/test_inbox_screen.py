"""The inbox on a whole terminal, with a real broker behind it."""

import asyncio
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import PUSHBROKER, environment
from support.served import Served
from textual.widgets import Input, ListView, RichLog, Static

from broker.admin import client as admin
from broker.command import inbox_screen
from broker.command.inbox_screen import InboxScreen, Keys, Sure
from broker.store.conversations import Asked, Conversations
from broker.store.messages import Messages

EVIL = "help \x1b[31mme\x07 [bold]now[/bold]"
ANSWER = '{"text":"Somebody comes.","choices":[{"id":"o","title":"Opening hours"}]}'


class Desk:
    """The operations of a broker, as the command reaches them."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def call(self, operation: str, **arguments: Any) -> Any:
        return admin.call(self._served.socket, operation, arguments)

    def stream(self, operation: str, **arguments: Any) -> admin.Stream:
        return admin.Stream(self._served.socket, operation, arguments)


async def ask(data: Path) -> None:
    """What ada and bob said, who both wait."""
    now = int(time.time() * 1000)
    async with await Messages.open(data / "messages.db") as messages:
        asked = [
            Asked(
                id=f"q{number}", conversation=f"c{number}", brand="acme", kind="user", name=name, device="k",
                store="milano", language="it", at=now + number, text=text, folded="", outcome="person", rule="",
                item="", score=0.0, answer=ANSWER, took_us=1,
            )
            for number, (name, text) in enumerate((("ada", EVIL), ("bob", "where is my cake")), 1)
        ]  # fmt: skip
        await Conversations(messages).book(asked, 0)
        waits = "UPDATE conversation SET state = 'waiting', why = 'asked', waiting_since = opened_at"
        await messages.write(lambda db: db.execute(waits))


async def close(data: Path, conversation: str) -> None:
    """The customer ended it, while nobody looked."""
    async with await Messages.open(data / "messages.db") as messages:
        ends = "UPDATE conversation SET state = 'closed', waiting_since = NULL, closed_at = changed_at WHERE id = ?"
        await messages.write(lambda db: db.execute(ends, (conversation,)))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as served:
        served.ask("brand.add", name="acme")
        served.ask("user.add", brand="acme", name="ada", title="Ada L.")
        served.ask("user.add", brand="acme", name="bob")
        served.ask("agent.add", brand="acme", name="mia")
        served.ask("agent.add", brand="acme", name="leo")
        served.ask("agent.set", brand="acme", name="leo", away=True)
        served.ask("canned.set", brand="acme", name="soon", text="Ciao {{ user.title }}, one moment!")
        served.stop()
        asyncio.run(ask(served.data))
        served.start()
        yield served


def said(screen: InboxScreen) -> str:
    return "\n".join(line.text for line in screen.query_one("#said", RichLog).lines)


def words(screen: InboxScreen, id: str) -> str:
    return str(screen.query_one(id, Static).render())


async def until(holds: Callable[[], bool]) -> None:
    """Wait until the screen is so: what it shows comes over a socket and threads."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_an_agent_takes_answers_notes_and_closes(served: Served) -> None:
    screen = InboxScreen(Desk(served), "acme", "mia")
    async with screen.run_test(size=(80, 24)) as pilot:
        await until(
            lambda: len(screen.query_one("#conversations", ListView)) == 2 and "Ada L." in words(screen, "#with")
        )
        assert "help \ufffd[31mme\ufffd [bold]now[/bold]" in said(screen).replace("\n", " ")
        assert "automation: Somebody comes." in said(screen)
        assert "[Opening hours]" in said(screen)
        assert max(len(line.text) for line in screen.query_one("#said", RichLog).lines) <= 80 - 34
        await until(lambda: len(screen.query("#conversations Static")) == 2)
        row = str(screen.query_one(ListView).children[0].query_one(Static).render())
        assert row.splitlines()[1].strip().startswith("help")
        await pilot.press("t")
        await until(lambda: "agent mia" in words(screen, "#with"))
        await pilot.press(*"ciao t q", "enter")
        await until(lambda: "mia: ciao t q" in said(screen))
        await pilot.press("escape", "n", *"a refund", "enter")
        await until(lambda: "note by mia: a refund" in said(screen))
        await pilot.press("ctrl+r")
        await pilot.pause()
        await pilot.press(*"soon", "enter")
        await until(lambda: "Ciao Ada L., one moment!" in said(screen).replace("\n", " "))
        await pilot.press("escape", "c")
        await until(lambda: isinstance(screen.screen, Sure))
        await pilot.press("y")
        await until(lambda: served.ask("inbox.show", brand="acme", conversation="c1")["state"] == "closed")
        await pilot.press("q")
    entries = served.ask("inbox.show", brand="acme", conversation="c1")["entries"]
    authors = [one["author"] for one in entries if one["author"] != "system"]
    assert authors == ["customer", "agent", "note", "agent"]


async def test_what_others_do_is_seen_and_a_restart_loses_nothing_that_is_typed(served: Served) -> None:
    screen = InboxScreen(Desk(served), "acme", "mia")
    async with screen.run_test(size=(80, 24)) as pilot:
        await until(lambda: "Ada L." in words(screen, "#with"))
        await pilot.press("r", *"half a rep")
        served.ask("agent.set", brand="acme", name="leo", away=False)
        served.ask("inbox.take", brand="acme", conversation="c1", agent="leo")
        await until(lambda: "agent leo" in words(screen, "#with"))
        served.kill()
        await until(lambda: "the broker is gone" in words(screen, "#notice"))
        await pilot.press(*"ly", "enter")
        served.start()
        await until(lambda: not words(screen, "#notice"))
        assert screen.query_one("#reply", Input).value == "half a reply"
        await pilot.press("escape", "b")
        await until(lambda: bool(words(screen, "#notice")))  # it is leo's: that is said, and nothing breaks
        await pilot.press("q")


async def test_what_is_typed_never_goes_to_another_customer(served: Served) -> None:
    """The conversation ends while the broker is out of sight: it stays on the right, though the list has it no more."""
    screen = InboxScreen(Desk(served), "acme", "mia")
    async with screen.run_test(size=(80, 24)) as pilot:
        await until(lambda: "Ada L." in words(screen, "#with"))
        await pilot.press("r", *"for ada")
        served.stop()
        await until(lambda: "the broker is gone" in words(screen, "#notice"))
        await close(served.data, "c1")
        served.start()
        await until(
            lambda: len(screen.query_one("#conversations", ListView)) == 1 and "closed" in words(screen, "#with")
        )
        await pilot.press("enter")
        await until(lambda: bool(words(screen, "#notice")))
        assert screen.query_one("#reply", Input).value == "for ada"
        await pilot.press("escape", "down")
        await until(lambda: "user/bob" in words(screen, "#with"))
        assert not screen.query_one("#reply", Input).value
        await pilot.press("q")


async def test_the_help_of_keys_opens_and_closes(served: Served) -> None:
    screen = InboxScreen(Desk(served), "acme", "mia")
    async with screen.run_test(size=(80, 24)) as pilot:
        await until(lambda: "Ada L." in words(screen, "#with"))
        for closes in ("escape", "question_mark", "q"):
            await pilot.press("question_mark")
            await until(lambda: isinstance(screen.screen, Keys))
            shown = str(screen.screen.query_one("#keys Static", Static).render())
            assert (
                len(shown.splitlines()) == len(InboxScreen.BINDINGS) <= 20
            )  # all of them are seen on a small terminal
            for key, what in (("t", "take"), ("^r", "ready"), ("Esc", "list"), ("x", "closed"), ("?", "keys")):
                assert re.search(rf"^ *{re.escape(key)} .*{what}", shown, re.MULTILINE), shown
            await pilot.press(closes)
            await until(lambda: not isinstance(screen.screen, Keys))
        await pilot.press("q")
    assert screen.return_code == 0


async def test_after_a_note_or_a_filter_the_keys_are_those_of_the_list(served: Served) -> None:
    screen = InboxScreen(Desk(served), "acme", "mia")
    async with screen.run_test(size=(80, 24)) as pilot:
        await until(lambda: "Ada L." in words(screen, "#with"))
        await pilot.press("r", *"half a reply", "escape")
        for key, typed in (("n", "a refund"), ("slash", "where is"), ("slash", "")):
            await pilot.press(key)
            await until(lambda: screen.focused is screen.query_one("#reply"))
            await pilot.press("ctrl+u", *typed, "enter")
            await until(lambda: screen.focused is screen.query_one("#conversations"))
            assert screen.query_one("#reply", Input).value == "half a reply"
        await pilot.press("q")


async def test_what_nobody_expects_is_said_and_the_inbox_goes_on(served: Served) -> None:
    class Odd(Desk):
        """Its first stream breaks."""

        def stream(self, operation: str, **arguments: Any) -> admin.Stream:
            if not broken:
                broken.append(True)
                raise ValueError("no such thing")
            return super().stream(operation, **arguments)

    broken: list[bool] = []
    screen = InboxScreen(Odd(served), "acme", "mia")
    async with screen.run_test(size=(80, 24)) as pilot:
        await until(lambda: "no such thing" in words(screen, "#notice"))
        await until(lambda: "Ada L." in words(screen, "#with") and not words(screen, "#notice"))
        await pilot.press("q")


async def test_the_list_is_drawn_by_one_at_a_time(served: Served) -> None:
    screen = InboxScreen(Desk(served), "acme", "mia")
    async with screen.run_test(size=(80, 24)) as pilot:
        await until(lambda: "Ada L." in words(screen, "#with"))
        await asyncio.gather(*(screen._list() for _ in range(5)))
        assert len(screen.query_one("#conversations", ListView)) == 2
        await pilot.press("q")


async def test_what_was_said_last_is_drawn_last(served: Served) -> None:
    class Slow(Desk):
        """It gives what it has found when it may."""

        def call(self, operation: str, **arguments: Any) -> Any:
            found = super().call(operation, **arguments)
            if operation == "inbox.show" and held:
                held.pop().wait(10)
            return found

    held: list[threading.Event] = []
    screen = InboxScreen(Slow(served), "acme", "mia")
    async with screen.run_test(size=(80, 24)) as pilot:
        await until(lambda: "Ada L." in words(screen, "#with"))
        may = threading.Event()
        held.append(may)
        first = asyncio.create_task(screen._show("c1"))
        await until(lambda: not held)
        await asyncio.to_thread(served.ask, "inbox.note", brand="acme", conversation="c1", agent="mia", text="a refund")
        second = asyncio.create_task(screen._show("c1"))
        await asyncio.wait([second], timeout=0.3)  # it would be done by then if it did not wait for the first
        may.set()
        await asyncio.gather(first, second)
        assert "note by mia: a refund" in said(screen)
        await pilot.press("q")


async def test_all_of_a_long_conversation_can_be_read(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_screen, "PAGE", 2)
    monkeypatch.setattr(inbox_screen, "ENTRIES_MOST", 3)
    for number in range(1, 8):
        served.ask("inbox.note", brand="acme", conversation="c1", agent="mia", text=f"note-{number}.")
    screen = InboxScreen(Desk(served), "acme", "mia")

    def seen(*numbers: int) -> bool:
        return [n for n in range(1, 8) if f"note-{n}." in said(screen)] == list(numbers)

    async with screen.run_test(size=(80, 24)) as pilot:
        await until(lambda: seen(6, 7))
        for numbers in ((5, 6, 7), (2, 3, 4), (1,)):
            await pilot.press("o")
            await until(lambda numbers=numbers: seen(*numbers))
        await pilot.press("o")
        await until(lambda: "the beginning" in words(screen, "#notice"))
        served.ask("inbox.note", brand="acme", conversation="c1", agent="mia", text="note-8.")
        await pilot.pause()
        assert seen(1)  # who reads further up goes on reading there
        await pilot.press("escape")
        await until(lambda: "note-8." in said(screen))
        await pilot.press("q")


def test_on_a_real_terminal_it_opens_and_leaves_it_as_it_was(served: Served) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    served.ask("brand.add", name="zeta")  # so that it has to be said whose
    env = environment(
        PUSHBROKER_BRAND="acme",
        PUSHBROKER_DATA=str(served.data),
        PUSHBROKER_ADMIN_SOCKET=str(served.socket),
        TERM="xterm-256color",
        NO_COLOR="1",
    )
    command = [PUSHBROKER, "inbox", "--as", "mia"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    seen = b""

    def read(until: Callable[[], bool]) -> None:
        nonlocal seen
        deadline = time.monotonic() + 20
        while not until():
            assert time.monotonic() < deadline, seen[-2000:]
            if select.select([ours], [], [], 0.05)[0]:
                seen += os.read(ours, 65536)

    try:
        read(lambda: b"Ada L." in seen)
        os.write(ours, b"q")
        read(lambda: process.poll() is not None)
        read(lambda: not select.select([ours], [], [], 0)[0])
    finally:
        process.kill()
        process.wait(10)
    assert process.returncode == 0
    assert b"\x1b[31mme" not in seen
    assert b"\x1b[?1049h" in seen
    assert b"\x1b[?1049l" in seen
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
