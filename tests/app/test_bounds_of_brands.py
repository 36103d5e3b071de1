"""What one brand may keep is bounded, and at its bound the other brands notice nothing."""

from pathlib import Path

from support.live import device, populate, running, server, settings
from support.mqtt import Client

from broker.wire.codes import Reason


async def retain(client: Client, topic: str, payload: bytes = b"x") -> int:
    answer = await client.publish(topic, payload, qos=1, retain=True)
    assert answer is not None
    return answer.reason


async def test_retained_messages_of_one_brand(tmp_path: Path) -> None:
    """The publisher is told, nothing is sent and it is counted; there is room again when one is taken away."""
    async with running(tmp_path / "data", retained_messages_of_brand_max=2) as broker:
        await populate(broker)
        ours, rival, kiosk = await server(broker), await server(broker, "rival"), await device(broker, "kiosk-7")
        for topic in ("acme/topic/a", "acme/topic/b"):
            assert await retain(ours, topic) == Reason.NO_MATCHING_SUBSCRIBERS
        await kiosk.subscribe("acme/topic/c")
        assert await retain(ours, "acme/topic/c") == Reason.QUOTA_EXCEEDED
        await kiosk.silent()
        assert broker.core.counters.retained_refused == 1
        assert await retain(rival, "rival/topic/c") == Reason.NO_MATCHING_SUBSCRIBERS
        assert await retain(ours, "acme/topic/a", b"") == Reason.NO_MATCHING_SUBSCRIBERS
        assert await retain(ours, "acme/topic/c") == Reason.SUCCESS
        await kiosk.expect_message(b"x")
        assert broker.core.counters.retained_refused == 1


async def test_the_bounds_of_brands_change_with_a_reload(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        ours = await server(broker)
        assert await retain(ours, "acme/topic/a") == Reason.NO_MATCHING_SUBSCRIBERS
        await broker.reload(settings(tmp_path / "data", retained_bytes_of_brand_max=1000))
        assert await retain(ours, "acme/topic/b") == Reason.QUOTA_EXCEEDED
