"""A whole broker in this process, on free ports, and the things that tests ask of it."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.mqtt import Client
from support.pki import key_and_csr

from broker.address import Listener
from broker.app import Broker
from broker.config import Settings
from broker.identity import Role

BOTH = (Listener("mqtt", "127.0.0.1", 0), Listener("mqtts", "127.0.0.1", 0))


def settings(data: Path, **more: Any) -> Settings:
    """Settings of a broker on two free ports, closed to those who present nothing unless `more` says otherwise."""
    return Settings(data=data, **{"listen": BOTH, **more})


@asynccontextmanager
async def running(data: Path, **more: Any) -> AsyncIterator[Broker]:
    """A broker that is stopped cleanly at the end."""
    broker = Broker(settings(data, **more))
    await broker.start()
    try:
        yield broker
        assert broker.core.counters.unexpected_errors == 0
    finally:
        await broker.stop()
        await Client.abort_all()


def port(broker: Broker, scheme: str = "mqtt") -> int:
    """The port that it really has."""
    return int(next(url for url in broker.addresses if url.startswith(scheme + ":")).rsplit(":", 1)[1])


def trusting(broker: Broker) -> ssl.SSLContext:
    """A client's context that trusts the broker's CA."""
    return broker.authority.client_context()


async def device_context(broker: Broker, brand: str, name: str) -> ssl.SSLContext:
    """A context with a certificate for a device."""
    key, csr = key_and_csr()
    enrolled = await broker.directory.cert_issue(Role.DEVICE, brand, name, csr)
    return broker.authority.client_context(enrolled.certificate_pem, key)


async def device(broker: Broker, name: str, client_id: str = "", *, brand: str = "acme", **fields: Any) -> Client:
    """A device, connected with its certificate."""
    context = await device_context(broker, brand, name)
    return await Client.connected(port(broker, "mqtts"), client_id or name, tls=context, **fields)


async def server(broker: Broker, brand: str = "acme", client_id: str = "", **fields: Any) -> Client:
    """A brand's server, connected with a token."""
    token = await broker.directory.token_issue(brand)
    fields = {"username": brand, "password": token.secret.encode(), **fields}
    return await Client.connected(port(broker), client_id, **fields)


async def populate(broker: Broker) -> None:
    """Two brands with the same names in them: users ada and bob, stores milano and roma, devices kiosk-7 and till-3."""
    for brand in ("acme", "rival"):
        await broker.directory.brand_add(brand)
        for user in ("ada", "bob"):
            await broker.directory.user_add(brand, user)
        for store in ("milano", "roma"):
            await broker.directory.store_add(brand, store)
        await broker.directory.device_code(brand, "kiosk-7", user="ada", store="milano")
        await broker.directory.device_code(brand, "till-3", user="bob", store="roma")
