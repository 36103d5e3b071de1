"""Questions through our own broker: answered, by choice, refused; a person takes over and replies."""

import asyncio
import dataclasses
import json
import queue
from collections.abc import Callable, Iterator

import pytest
from support.kiosk import Handler, until
from support.ours import OurBroker

from client_sdk import (
    Answer,
    AskRefused,
    AsyncDevice,
    Backoff,
    Choice,
    ConversationEvent,
    Credentials,
    Device,
    Unreachable,
    enrol,
)

Quickly = Callable[[], Backoff]
CAKES = (
    {"name": "torta-cioccolato", "language": "it", "title": "Torta al cioccolato",
     "body": "{{ data.price | number }} €", "data": {"price": 3.5}},
    {"name": "torta-mele", "language": "it", "title": "Torta di mele"},
    {"name": "wipro", "title": "Wipro"},
)  # fmt: skip


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurBroker]:
    directory = tmp_path_factory.mktemp("asking")
    broker = OurBroker(directory / "data")
    try:
        broker.start()
        broker.command("brand", "add", "acme")
        broker.command("user", "add", "acme", "ada")
        broker.command("agent", "add", "acme", "mia")
        (directory / "cakes.json").write_text(json.dumps(CAKES))
        broker.command("content", "import", "acme", str(directory / "cakes.json"))
        yield broker
    finally:
        broker.kill()


@pytest.fixture(scope="module")
def kiosk(broker: OurBroker, tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    code = broker.command("device", "code", "acme", "kiosk-7", "--user", "ada")["code"]
    return enrol(url=broker.url, code=code, directory=tmp_path_factory.mktemp("kiosk"), ca=broker.ca, timeout=20)


@pytest.fixture
def device(kiosk: Credentials, handler: Handler, quickly: Quickly) -> Iterator[Device]:
    with Device(kiosk, on_message=handler, backoff=quickly()) as device:
        device.wait_connected(timeout=10)
        yield device


def test_answered_by_choice_and_rated(device: Device, broker: OurBroker) -> None:
    offered = device.ask("torta", locale="it-IT")
    assert (offered.kind, [one.title for one in offered.choices]) == (
        "choice",
        ["Torta al cioccolato", "Torta di mele"],
    )
    answer = device.ask(choice=offered.choices[0])
    assert (answer.kind, answer.by, answer.item) == ("answer", "automation", "torta-cioccolato")
    assert (answer.title, answer.body, answer.data) == ("Torta al cioccolato", "3,50 €", {"price": 3.5})
    device.rate(answer, useful=True)
    until(lambda: any(one.answer == answer for one in device.conversation.history().entries))
    device.conversation.close()
    until(lambda: device.conversation.history().state == "closed")


def test_what_is_no_question_is_refused_with_its_code(device: Device) -> None:
    with pytest.raises(ValueError, match="no question"):
        device.ask("  ")
    with pytest.raises(AskRefused) as caught:
        device.ask("x" * 2000)
    assert caught.value.code == "too_long"
    with pytest.raises(AskRefused) as caught:
        device.ask(choice="never-offered")
    assert caught.value.code == "unknown_choice"


def test_followed_and_seen_in_the_preferences(device: Device) -> None:
    assert device.ask("follow wipro daily").item == "wipro"
    until(lambda: device.preferences.follows == {"wipro": 86400})
    device.set_preferences(follows={"wipro": None})
    until(lambda: device.preferences.follows == {})


def test_a_person_replies(device: Device, handler: Handler, broker: OurBroker) -> None:
    events: queue.Queue[ConversationEvent] = queue.Queue()
    device.conversation.on_event(events.put)
    assert device.ask("operatore").kind == "person"
    assert device.ask("il mio ordine").text == ""
    (waiting,) = broker.command("inbox", "list", "acme", "--state", "waiting")
    broker.command("inbox", "take", "acme", waiting["id"], "--agent", "mia")
    broker.command("inbox", "reply", "acme", waiting["id"], "Lo cerco!", "--agent", "mia")
    while (message := handler.next()).reply is None:
        pass  # of what they followed before this
    assert message.notification is not None
    assert message.notification.body == "Lo cerco!"
    reply = message.reply
    assert reply.conversation == waiting["id"]
    while (event := events.get(timeout=10)).state != "agent":
        pass
    assert event.agent == "mia"
    history = device.conversation.history(most=1)
    assert (history.state, history.agent, history.entries[0].text) == ("agent", "mia", "Lo cerco!")
    device.conversation.typing()
    device.conversation.read(reply.entry)
    device.conversation.close()
    until(lambda: device.conversation.history().state == "closed")


def test_without_a_connection_nothing_is_asked(kiosk: Credentials, handler: Handler, quickly: Quickly) -> None:
    nobody = dataclasses.replace(kiosk, url="mqtts://127.0.0.1:1")
    with Device(nobody, on_message=handler, backoff=quickly()) as device:
        with pytest.raises(Unreachable, match="no connection"):
            device.ask("torta")
        with pytest.raises(Unreachable, match="no connection"):
            device.conversation.history()


async def test_asyncio_asks_in_the_same_way(kiosk: Credentials, quickly: Quickly) -> None:
    async def show(_message: object) -> None: ...

    async with AsyncDevice(kiosk, on_message=show, backoff=quickly()) as device:
        await device.wait_connected(timeout=10)
        offered, other = await asyncio.gather(device.ask("torta"), device.ask("wipro"))
        assert offered.choices[1] == Choice("torta-mele", "Torta di mele")
        assert other.item == "wipro"
        answer: Answer = await device.ask(choice="torta-mele")
        await device.rate(answer, useful=False)
        async with asyncio.timeout(10):
            while len((await device.conversation.history()).entries) < 3:  # noqa: ASYNC110 - the books are another process's
                await asyncio.sleep(0.01)
        await device.conversation.close()
