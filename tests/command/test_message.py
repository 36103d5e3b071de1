"""`pushbroker message`: what became of what was sent, in tables, figures, exports, and live."""

import asyncio
import csv
import io
import json
import os
import pty
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cli import PUSHBROKER, environment, ok, pushbroker, serving
from support.sent import AT, book

RICH = "application/vnd.push+json"
ID = f"m{1:021}"


def people(**states: int) -> list[dict[str, Any]]:
    return [{"name": f"{state}-{n}", "state": state} for state, count in states.items() for n in range(count)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    ok("init", "--data", tmp_path)
    return tmp_path


def booked(data: Path, *messages: dict[str, Any]) -> None:
    asyncio.run(book(data / "messages.db", *messages))


def test_messages_are_listed_and_shown_without_a_broker_too(data: Path) -> None:
    nothing = ok("message", "list", "--data", data)
    assert "Nothing has been sent" in nothing.err

    spring = {"content_type": RICH, "payload": b'{"title": "Ciao [b]", "body": "x"}', "campaign": "spring"}
    bytes_ = {"payload": b"\xff\x00", "content_type": RICH}
    ada = {"name": "ada", "state": "delivered", "sent_at": AT, "delivered_at": AT + 40, "opened_at": AT + 90_000}
    event = {"recipient": 1, "device": "kiosk-7", "event": "delivered", "at": AT + 40, "store": "milano"}
    others = people(accepted=2, sent=1, dropped=3)
    booked(data, {**spring, "people": [ada, *others], "events": [event]}, {"brand": "bolt", **bytes_})

    listed = ok("message", "list", "--json", "--data", data).json
    assert [(one["brand"], one["title"]) for one in listed] == [("bolt", ""), ("acme", "Ciao [b]")]
    (of_spring,) = ok("message", "list", "acme", "--campaign", "spring", "--json", "--data", data).json
    assert of_spring["id"] == ID
    assert ok("message", "list", "--before", ID, "--json", "--data", data).json == []
    assert "Ciao [b]" in ok("message", "list", "--data", data).out

    shown = ok("message", "show", ID, "--json", "--data", data).json
    counts = shown["counts"]
    assert counts["accepted"] == 7 == sum(
        counts[name] for name in ("delivered", "expired", "replaced", "dropped", "withdrawn", "waiting")
    )  # fmt: skip
    assert (shown["accepted_at"], shown["done"]) == ("2026-11-18T11:06:40.000Z", False)
    assert shown["time_to_opened"]["p50_s"] == 90
    assert [bar for bar in shown["time_to_delivered"]["bars"] if bar["count"]] == [{"under_s": 0.1, "count": 1}]
    words = ok("message", "show", ID, "--data", data).out
    assert "7 accepted = 1 delivered + 0 expired + 0 replaced + 3 dropped + 0 withdrawn + 3 waiting" in words
    assert "from sent to opened: half in 1.5 min" in words

    (store,) = ok("message", "show", ID, "--by-store", "--json", "--data", data).json
    assert (store["store"], store["delivered"], store["delivered_p50_s"]) == ("milano", 1, 0.04)
    assert "40 ms" in ok("message", "show", ID, "--by-store", "--data", data).out

    missing = pushbroker("message", "show", "m038g2hxy7r000wcndertm", "--data", data)
    assert (missing.code, "pushbroker message list" in missing.err) == (3, True)
    assert pushbroker("message", "watch", ID, "--data", data).code == 5


def test_recipients_are_exported_page_by_page(data: Path) -> None:
    booked(data, {"people": [{"name": f"u{n}", "state": "dropped" if n % 2 else "sent"} for n in range(10_001)]})

    rows = list(csv.DictReader(io.StringIO(ok("message", "recipients", ID, "--csv", "--data", data).out)))
    dropped = ok("message", "recipients", ID, "--state", "dropped", "--json", "--data", data).json

    assert [row["name"] for row in rows] == [f"u{n}" for n in range(10_001)]
    assert rows[0]["due_at"] == "2026-11-18T11:06:40.000Z"
    assert [row["name"] for row in dropped] == [f"u{n}" for n in range(1, 10_001, 2)]
    assert ok("message", "recipients", ID, "--state", "expired", "--json", "--data", data).json == []
    table = ok("message", "recipients", ID, "--data", data)
    assert (len(table.out.splitlines()), "--csv" in table.err) == (51, True)


@pytest.fixture
def watched(data: Path) -> Iterator[Path]:
    ok("brand", "add", "acme", "--data", data)
    booked(data, {"people": people(sent=3), "state": "open", "expires_at": AT + 10**12})
    with serving("--data", data, "--listen", "mqtt://127.0.0.1:0"):
        yield data


def move(data: Path, state: str, *numbers: int) -> None:
    with closing(sqlite3.connect(data / "messages.db")) as db, db:
        for number in numbers:
            db.execute("UPDATE recipient SET state = ? WHERE number = ?", (state, number))
        db.execute("UPDATE message SET state = 'done' WHERE NOT EXISTS (SELECT 1 FROM recipient WHERE state = 'sent')")


def test_a_message_is_watched_until_nobody_waits(watched: Path) -> None:
    command = [PUSHBROKER, "message", "watch", ID, "--data", watched]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as plain,
        subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, env=environment()) as json_lines,
    ):
        assert plain.stdout is not None
        assert json_lines.stdout is not None
        assert "3 accepted = 0 delivered" in plain.stdout.readline()
        assert json.loads(json_lines.stdout.readline())["counts"]["waiting"] == 3
        move(watched, "delivered", 1)
        assert "3 accepted = 1 delivered" in plain.stdout.readline()
        assert json.loads(json_lines.stdout.readline())["counts"]["delivered"] == 1
        move(watched, "expired", 2, 3)
        assert plain.stdout.read().count("2 expired") == 1
        assert json.loads(json_lines.stdout.read())["done"]
    assert (plain.returncode, json_lines.returncode) == (0, 0)


def test_on_a_terminal_the_figures_are_drawn_in_place(watched: Path) -> None:
    ours, theirs = pty.openpty()
    command, env = [PUSHBROKER, "message", "watch", ID, "--data", watched], environment(TERM="xterm")
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen = b""
        while b"3 waiting" not in seen:
            seen += os.read(ours, 4096)
        move(watched, "delivered", 1, 2, 3)
        while process.poll() is None or b"3 delivered" not in seen:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        process.wait(10)
    os.close(ours)
    assert process.returncode == 0
    assert b"3 accepted = 3 delivered" in seen
    assert b"\x1b[1A" in seen  # it went up over what it had drawn


def test_a_message_is_withdrawn(data: Path) -> None:
    ok("brand", "add", "acme", "--data", data)
    later = AT + 10**12
    waiting = [{**person, "due_at": later} for person in people(accepted=150, delivered=2)]
    booked(data, {"people": waiting, "state": "open", "expires_at": later})
    with serving("--data", data, "--listen", "mqtt://127.0.0.1:0"):
        assert pushbroker("message", "withdraw", ID, "--data", data).code == 2  # nobody is there to ask
        withdrawn = ok("message", "withdraw", ID, "--yes", "--json", "--data", data).json
        again = ok("message", "withdraw", ID, "--yes", "--data", data)
        counts = ok("message", "show", ID, "--json", "--data", data).json["counts"]
        assert pushbroker("message", "withdraw", "m1", "--yes", "--data", data).code == 3

    assert (withdrawn["withdrawn"], withdrawn["done"]) == (150, True)
    assert "withdrawn from 0" in again.err
    assert (counts["withdrawn"], counts["delivered"], counts["waiting"]) == (150, 2, 0)


def test_why_is_one_screen(data: Path) -> None:
    ok("brand", "add", "acme", "--data", data)
    ok("user", "add", "acme", "bob", "--data", data)
    dropped = {"name": "ada", "state": "dropped", "reason": "cap"}
    why = {"recipient": 1, "at": AT, "rule": "cap", "outcome": "dropped", "detail": "had 3 marketing messages"}
    booked(data, {"people": [dropped], "decisions": [why]})

    screen = ok("why", ID, "ada", "--data", data).out
    assert screen.splitlines()[0] == "user/ada did not get it: had 3 marketing messages"
    assert "2026-11-18 11:06:40.000  dropped    cap: had 3 marketing messages" in screen
    answer = ok("why", ID, "bob", "--json", "--data", data).json
    assert (answer["parts"], answer["message"]["id"]) == ([], ID)
    assert "pushbroker message list" in pushbroker("why", "m9", "ada", "--data", data).err


def test_an_operator_sends_what_a_server_may(data: Path) -> None:
    for words in (["brand", "add", "acme"], ["user", "add", "acme", "ada"]):
        ok(*words, "--data", data)
    request = data / "offer.json"
    request.write_text('{"to": {"users": ["ada"]}, "payload": "Ciao"}')
    with serving("--data", data, "--listen", "mqtt://127.0.0.1:0"):
        tried = ok("message", "send", "acme", request, "--dry-run", "--data", data)
        assert (tried.out.split(), "nothing was sent; it is for 1 user and 0 devices" in tried.err) == (
            ["user/ada"],
            True,
        )
        assert ok("message", "list", "--json", "--data", data).json == []
        sent = ok("message", "send", "acme", request, "--data", data)
        (listed,) = ok("message", "list", "--json", "--data", data).json
        assert sent.out.split() == [listed["id"]]
        for wrong, words in (
            ('{"to": {"users": ["eve"]}, "payload": "x"}', "no user 'eve'"),
            ('{"withdraw": "m0"}', "pushbroker message withdraw m0"),
            ("{", "no JSON"),
        ):
            request.write_text(wrong)
            refused = pushbroker("message", "send", "acme", request, "--data", data)
            assert refused.code == 4
            assert words in refused.err
        unknown = pushbroker("message", "send", "none", request, "--data", data)
        assert (unknown.code, "none" in unknown.err) == (3, True)
