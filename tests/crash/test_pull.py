"""From a question to a person's reply with real clients, while the broker is killed in the middle, twice."""

import asyncio
import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support.kiosk import until
from support.library import item
from support.served import Served

from broker.store.content import Content

OWN = "acme/device/kiosk-7"
CAKES = (
    item("torta-cioccolato", "Torta al cioccolato", body="{{ data.price | number }} €", data={"price": 3.5}),
    item("torta-mele", "Torta di mele", body="Con cannella."),
)


class Kiosk:
    """A device with a session that stays, on paho."""

    def __init__(self, port: int, password: str) -> None:
        self.got: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "kiosk-7", protocol=paho.MQTTv5)
        self._client.username_pw_set(OWN, password)
        self._client.on_message = lambda _client, _data, message: self.got.put(
            (message.topic, json.loads(message.payload))
        )
        there: queue.Queue[Any] = queue.Queue()
        self._client.on_connect = lambda _client, _data, flags, reason, _props: there.put((flags, reason))
        self._client.on_subscribe = lambda *_: there.put(None)
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=kept)
        self._client.loop_start()
        flags, reason = there.get(timeout=10)
        assert not reason.is_failure
        if not flags.session_present:
            self._client.subscribe([(f"{OWN}/answer", 1), ("acme/user/ada", 1)])
            there.get(timeout=10)

    def publish(self, kind: str, said: object) -> None:
        """Publish to its `up/{kind}`, and wait for the PUBACK."""
        payload = said if isinstance(said, str) else json.dumps(said)
        self._client.publish(f"{OWN}/up/{kind}", payload, qos=1).wait_for_publish(10)

    def expect(self, topic: str) -> Any:
        """The next message, which has this topic."""
        got, payload = self.got.get(timeout=10)
        assert got == topic
        return payload

    def ask(self, said: object) -> Any:
        """What it is answered."""
        self.publish("ask", said)
        return self.expect(f"{OWN}/answer")

    def leave(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def kiosk(served: Served) -> Iterator[Kiosk]:
    there = Kiosk(served.port, "correct horse")
    try:
        yield there
    finally:
        there.leave()


async def stock(path: Path) -> None:
    async with await Content.open(path) as content:
        await content.put(CAKES, 0)


def populate(served: Served) -> None:
    served.ask("brand.add", name="acme")
    served.ask("user.add", brand="acme", name="ada", title="Ada L.")
    served.ask("device.code", brand="acme", device="kiosk-7", user="ada")
    served.ask("password.set", role="device", brand="acme", name="kiosk-7", password="correct horse")
    served.ask("agent.add", brand="acme", name="mia", title="Mia R.")


def booked(served: Served) -> int:
    """How much was said in the conversations that wait, as far as the books have it."""
    found = served.ask("inbox.list", brand="acme", state="held")
    shown = [served.ask("inbox.show", brand="acme", conversation=one["id"]) for one in found]
    return sum(len(one["entries"]) for one in shown)


def test_a_conversation_goes_on_over_kills(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with served:
        populate(served)
        served.stop()
        asyncio.run(stock(served.data / "content.db"))
        served.start()
        with kiosk(served) as there:
            choice = there.ask({"text": "torta", "locale": "it-IT"})
            assert [one["id"] for one in choice["choices"]] == ["torta-cioccolato", "torta-mele"]
            answer = there.ask({"choice": "torta-cioccolato"})
            assert (answer["kind"], answer["body"]) == ("answer", "3,50 €")
            assert there.ask("operatore")["kind"] == "person"
            until(lambda: booked(served) == 3)
            there.publish("ask", "il mio ordine non c'è")
        served.kill()
        served.start()
        (waiting,) = served.ask("inbox.list", brand="acme", state="held")
        assert (waiting["with"], waiting["title"], waiting["agent"]) == ("user/ada", "Ada L.", "mia")
        done = served.command("inbox", "reply", "acme", waiting["id"], "Lo cerco subito!", "--agent", "mia", "--json")
        assert done.code == 0, done.err
        served.kill()
        served.start()
        with kiosk(served) as there:
            topic, reply = there.got.get(timeout=10)
            while topic == f"{OWN}/answer":  # again, to what was asked just before a kill and not booked
                topic, reply = there.got.get(timeout=10)
            assert topic == "acme/user/ada"
            assert (reply["title"], reply["body"]) == ("Mia R.", "Lo cerco subito!")
            shown = served.ask("inbox.show", brand="acme", conversation=waiting["id"])
            said = [(one["author"], one["text"]) for one in shown["entries"]]
            assert said == [
                ("customer", "torta"), ("customer", "Torta al cioccolato"), ("customer", "operatore"),
                ("customer", "il mio ordine non c'è"), ("agent", "Lo cerco subito!"),
            ]  # fmt: skip
            assert shown["entries"][0]["answer"]["choices"][1]["id"] == "torta-mele"
            id = shown["entries"][-1]["message"]
            there.publish("receipt", {"message_id": id, "event": "displayed"})
            there.publish("receipt", {"message_id": id, "event": "opened"})
            assert there.ask("grazie")["kind"] == "person"  # these are in order, so the receipts are booked
        shown = served.ask("inbox.show", brand="acme", conversation=waiting["id"])
        (entry,) = [one for one in shown["entries"] if one["author"] == "agent"]
        assert entry["delivered_at"]
        assert entry["displayed_at"]
        assert served.status["counters"]["unexpected_errors"] == 0
