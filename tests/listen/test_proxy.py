"""The PROXY protocol: who may announce whom, and every way in which a header can be there, or be wrong."""

import pytest
from support.engine import Engine
from support.mqtt import Client

from broker.listen.proxy import Proxies
from broker.wire.encode import encode
from broker.wire.packets import Connack, Connect

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((192, 0, 2, 1, 198, 51, 100, 1)) + b"\xdc\x04\x01\xbb"
LOCAL = Proxies(["127.0.0.0/8"])


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_the_announced_address_is_the_clients(engine: Engine, header: bytes) -> None:
    client = await Client.open(engine.listen(proxy=LOCAL))
    await client.send(header, encode(Connect("a", 5), 5))
    await client.expect(Connack)
    channel = engine.session("a").channel
    assert channel is not None
    assert channel.address == "192.0.2.1:56324"
    await client.silent()
    await client.close()


async def test_not_from_a_trusted_proxy(engine: Engine) -> None:
    client = await Client.open(engine.listen(proxy=Proxies(["10.0.0.0/8"])))
    await client.expect_end()
    assert engine.counters.proxy_refused == 1
