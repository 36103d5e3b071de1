"""`pushbroker inbox` and `agent` against a running broker, with a kiosk that is a plain MQTT client."""

import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from support.cli import Done, serving

from broker.admin import client as admin
from broker.command.inbox import event_line, lines
from broker.command.root import run


@pytest.fixture(scope="module")
def port(data: Path) -> Iterator[int]:
    """A broker on `data`."""
    with serving("--data", data, "--listen", "mqtt://127.0.0.1:0") as served:
        yield served.port("mqtt")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a brand, a user and her kiosk."""
    return tmp_path_factory.mktemp("data")


class Kiosk:
    """A device of ada's."""

    def __init__(self, port: int) -> None:
        self.messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, "kiosk-7", protocol=paho.MQTTv5)
        self.client.username_pw_set("acme/device/kiosk-7", "correct horse")
        self.client.on_message = lambda _client, _data, message: self.messages.put(
            (message.topic, json.loads(message.payload))
        )
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.client.on_subscribe = lambda *_: subscribed.put(True)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        topics = ("acme/device/kiosk-7/answer", "acme/device/kiosk-7/conversation", "acme/user/ada")
        self.client.subscribe([(topic, 1) for topic in topics])
        subscribed.get(timeout=10)

    def say(self, kind: str, what: bytes) -> None:
        self.client.publish(f"acme/device/kiosk-7/up/{kind}", what, qos=1).wait_for_publish(10)

    def next(self, topic: str) -> Any:
        """The next message on a topic."""
        while (message := self.messages.get(timeout=10))[0] != topic:
            pass
        return message[1]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def kiosk(data: Path, port: int) -> Iterator[Kiosk]:
    for operation, arguments in (
        ("brand.add", {"name": "acme"}),
        ("user.add", {"brand": "acme", "name": "ada", "title": "Ada L."}),
        ("device.code", {"brand": "acme", "device": "kiosk-7", "user": "ada"}),
        ("password.set", {"role": "device", "brand": "acme", "name": "kiosk-7", "password": "correct horse"}),
    ):
        admin.call(data / "admin.sock", operation, arguments)
    kiosk = Kiosk(port)
    yield kiosk
    kiosk.close()


Do = Callable[..., Done]


@pytest.fixture
def do(data: Path, port: int, capsys: pytest.CaptureFixture[str]) -> Do:
    """Do a command."""
    capsys.readouterr()

    def do(*words: str, code: int = 0) -> Done:
        done = run([*words, "--data", str(data)])
        said = capsys.readouterr()
        assert done == code, said.err
        return Done(done, said.out, said.err)

    return do


def test_from_a_question_to_a_person_and_back(kiosk: Kiosk, do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pushbroker agent add acme NAME" in do("agent", "list", "acme").err
    do("agent", "add", "acme", "mia", "--title", "Mia R.", "--most", "3")
    do("inbox", "canned", "set", "acme", "hello", "Ciao {{ user.title }}, sono {{ data.agent }}.")
    assert "Nobody waits" in do("inbox", "list", "acme").err

    kiosk.say("ask", b"operator")
    answer = kiosk.next("acme/device/kiosk-7/answer")
    assert (answer["kind"], answer["text"]) == ("person", "Somebody will answer you here.")
    assert kiosk.next("acme/device/kiosk-7/conversation")["state"] == "waiting"
    kiosk.say("ask", b"hello?")
    assert kiosk.next("acme/device/kiosk-7/answer")["kind"] == "person"

    (waiting,) = do("inbox", "list", "acme", "--json").json
    assert (waiting["with"], waiting["title"], waiting["agent"], waiting["state"]) == (
        "user/ada", "Ada L.", "mia", "waiting"
    )  # fmt: skip
    assert "user/ada  Ada L." in do("inbox", "list", "acme", "--agent", "mia").out
    id = waiting["id"]
    assert f"pushbroker inbox reply acme {id}" in do("inbox", "take", "acme", id).err
    assert kiosk.next("acme/device/kiosk-7/conversation")["agent"] == "Mia R."
    do("inbox", "note", "acme", id, "in a hurry")
    replied = do("inbox", "reply", "acme", id, "--canned", "hello", "--json").json
    shown = kiosk.next("acme/user/ada")
    assert (shown["title"], shown["body"]) == ("Mia R.", "Ciao Ada L., sono Mia R..")
    message = replied["entry"]["message"]
    kiosk.say("receipt", json.dumps({"message_id": message, "event": "displayed"}).encode())
    kiosk.say("conversation", json.dumps({"do": "read", "entry": shown["data"]["entry"]}).encode())

    do("agent", "add", "acme", "leo", "--tag", "wine")
    assert "acme has 2 agents" in do("inbox", "close", "acme", id, code=2).err
    monkeypatch.setenv("PUSHBROKER_AGENT", "leo")
    assert "mia has the conversation" in do("inbox", "close", "acme", id, code=4).err
    assert "waits for leo" in do("inbox", "assign", "acme", id, "--to", "leo").err
    assert "with the automation again" in do("inbox", "hand-back", "acme", id).err
    do("inbox", "show", "acme", id, "--read")
    history = do("inbox", "show", "acme", id).out
    words = ["customer: operator", "automation: Somebody", "customer: hello?", "mia: taken", "note by mia: in a hurry",
             "mia: Ciao Ada L., sono Mia R..  (displayed", "operator: assigned leo", "leo: handed back"]  # fmt: skip
    places = [history.find(one) for one in words]
    assert -1 not in places
    assert places == sorted(places)
    last, more = do("inbox", "show", "acme", id, "--limit", "2"), "more was said before: --before"
    assert f"{more} {last.err.split()[-1]}" in last.err
    assert "waits for leo" not in last.out
    earlier = do("inbox", "show", "acme", id, "--before", last.err.split()[-1])
    assert "customer: operator" in earlier.out
    assert not earlier.err
    assert earlier.out.splitlines()[1:] + last.out.splitlines()[1:] == history.splitlines()[1:]
    assert "is closed" in do("inbox", "close", "acme", id).err
    (closed,) = do("inbox", "list", "acme", "--state", "closed", "--json").json
    assert (closed["closed_by"], closed["unread"]) == ("leo", 0)

    do("agent", "set", "acme", "leo", "--away", "--tag", "")
    (leo, mia) = do("agent", "list", "acme", "--json").json
    assert (leo["away"], leo["tags"], mia["most"], mia["conversations"]) == (True, [], 3, 0)
    do("agent", "remove", "acme", "leo", "--yes")
    assert "Say what is to change" in do("agent", "set", "acme", "mia", code=2).err
    assert "hello" in do("inbox", "canned", "list", "acme").out
    do("inbox", "canned", "remove", "acme", "hello")
    assert "no reply 'hello'" in do("inbox", "canned", "remove", "acme", "hello", code=3).err
    assert "acme has no conversation 'c0'" in do("inbox", "show", "acme", "c0", code=3).err


def entry(**fields: Any) -> dict[str, Any]:
    usual = {"at": "2026-11-22T09:00:00.000Z", "author": "agent", "who": "mia", "text": "x", "answer": None,
             "displayed_at": None, "delivered_at": None, "state": None, "reason": None}  # fmt: skip
    return {**usual, **fields}


@pytest.mark.parametrize(
    ("fields", "mark"),
    [
        ({"state": "delivered", "delivered_at": "2026-11-22T09:00:05.000Z"}, "(delivered 09:00:05)"),
        ({"state": "dropped", "reason": "suppressed"}, "(dropped suppressed)"),
        ({}, "(not sent)"),
    ],
)
def test_beside_a_reply_stands_what_became_of_it(fields: dict[str, Any], mark: str) -> None:
    assert mark in lines(entry(**fields))[0]


def test_what_a_customer_writes_does_not_drive_the_terminal() -> None:
    said = lines(entry(author="customer", text="a\x1b[2J\nb", answer={"text": "c\x07", "by": "server"}))
    assert [line.split("\x1b[0m")[-1].strip() for line in said] == [": a�[2J", "b", ": c�"]


def test_an_event_is_one_line() -> None:
    conversation = {"id": "c1", "with": "user/ada", "state": "waiting", "agent": "mia", "last": "hello\nthere\x07"}
    line = event_line({"event": "reminded", "conversation": conversation})
    assert line == "reminded     c1  user/ada, waiting mia: hello there\ufffd"
    said = event_line({"event": "said", "conversation": conversation, "entry": {"text": "bye"}})
    assert said.endswith(": bye")
