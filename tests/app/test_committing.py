"""How often is written what nobody hurries for."""

import pytest
from support.live import device

from broker import committer
from broker.app import Broker
from broker.wire.packets import Puback, Publish


async def test_facts_alone_are_written_at_a_pace(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "FACTS_EVERY_S", 0.2)
    kiosk, till = await device(broker, "kiosk-7"), await device(broker, "till-3")
    await kiosk.publish("acme/device/kiosk-7/up/preferences", b"{}", qos=1)
    before = broker.core.counters.journal_commits
    await kiosk.send(
        *(Publish(b"acme/device/kiosk-7/up/preferences", b"{}", 1, packet_id=number) for number in range(10, 20))
    )
    await till.send(Publish(b"acme/device/till-3/up/preferences", b"{}", 1, packet_id=5))
    for _ in range(10):
        assert isinstance(await kiosk.receive(), Puback)
    assert isinstance(await till.receive(), Puback)
    assert broker.core.counters.journal_commits - before <= 2
