"""mosquitto as a bridge: a broker in a shop that passes on what it gets to ours, and back."""

import asyncio
import getpass
import socket
from asyncio.subprocess import DEVNULL
from pathlib import Path

import pytest
from support.engine import until
from support.live import port, running
from support.mqtt import Client
from support.programs import program

_CONFIG = """\
user {user}
listener {local} 127.0.0.1
allow_anonymous true
connection shop
address 127.0.0.1:{remote}
bridge_protocol_version {version}
restart_timeout 1
notifications false
topic up/# out 1
topic down/# in 1
"""


@pytest.mark.parametrize("version", ["mqttv311", "mqttv50"])
async def test_a_bridge_connects_and_passes_on(tmp_path: Path, version: str) -> None:
    """Of 3.1.1 it first comes with a protocol level of its own (0x84), and as 4 when it is told 1 [MQTT-3.1.2-2]."""
    config = tmp_path / "mosquitto.conf"
    with socket.create_server(("127.0.0.1", 0)) as free:
        local = free.getsockname()[1]
    async with running(tmp_path / "data", allow_anonymous=True) as broker:
        config.write_text(_CONFIG.format(user=getpass.getuser(), local=local, remote=port(broker), version=version))
        mosquitto = await asyncio.create_subprocess_exec(program("mosquitto"), "-c", str(config), stderr=DEVNULL)
        try:
            await until(lambda: broker.status()["subscriptions"] == 1)
            assert broker.core.counters.protocol_errors == (version == "mqttv311")
            here = await Client.connected(port(broker), "here")
            shop = await Client.connected(local, "shop", version=4)
            await here.subscribe("up/#", qos=1)
            await shop.subscribe("down/#", qos=1)
            await shop.publish("up/1", b"from the shop", qos=1)
            await here.expect_message(b"from the shop")
            await here.publish("down/1", b"to the shop", qos=1)
            await shop.expect_message(b"to the shop")
            await here.close()
            await shop.close()
        finally:
            mosquitto.terminate()
            await mosquitto.wait()
