"""Following topics from inside the process."""

import asyncio
from pathlib import Path

import pytest
from support.live import port, running
from support.mqtt import Client

from broker.bridge import tail as tail_module
from broker.errors import Refused


async def test_a_tail_is_no_receiver(tmp_path: Path) -> None:
    """It sees what passes, but a publisher to nobody is still told that nobody is there."""
    async with running(tmp_path, allow_anonymous=True) as broker:
        following = broker.tail(["acme/#"])
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        sent = await broker.send("acme/user/ada", b"ciao", content_type="text/plain", user_properties=[("a", "b")])
        assert sent["recipients"] == 0
        seen = await asyncio.wait_for(first, 5)
        assert (seen["topic"], seen["payload"], seen["message_id"]) == ("acme/user/ada", b"ciao", sent["message_id"])
        assert seen["content_type"] == "text/plain"
        assert ("a", "b") in seen["user_properties"]
        client = await Client.connected(port(broker), "c")
        ack = await client.publish("acme/user/ada", b"x", qos=1)
        assert ack.reason == 0x10
        await following.aclose()


async def test_a_tail_begins_with_what_is_retained(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await Client.connected(port(broker), "c")
        await client.publish("shop/open", b"yes", qos=1, retain=True)
        following = broker.tail(["shop/+", "shop/open"])
        seen = await asyncio.wait_for(anext(following), 5)
        assert (seen["topic"], seen["retain"]) == ("shop/open", True)
        second = asyncio.ensure_future(anext(following))  # both filters match it, it is shown once
        await asyncio.sleep(0)
        await client.publish("shop/open", b"no", qos=1)
        assert (await asyncio.wait_for(second, 5))["payload"] == b"no"
        await following.aclose()


async def test_a_reader_that_is_slow_loses_the_oldest_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "WAITING_MAX", 3)
    async with running(tmp_path, allow_anonymous=True) as broker:
        following = broker.tail(["t"])
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        await broker.send("t", b"first")
        await asyncio.wait_for(first, 5)
        for number in range(5):
            await broker.send("t", b"%d" % number)
        seen = await anext(following)
        assert (seen["payload"], seen["dropped"]) == (b"2", 2)
        await following.aclose()


@pytest.mark.parametrize("filter", ["a/#/b", "", "$share/g/a"])
async def test_what_cannot_be_followed(tmp_path: Path, filter: str) -> None:
    async with running(tmp_path) as broker:
        with pytest.raises(Refused):
            await anext(broker.tail([filter]))
