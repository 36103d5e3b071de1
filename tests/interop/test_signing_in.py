"""A brand's server with its token, and a device with its certificate, with each client."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from interop.clients import WAYS
from interop.conftest import House, Scene
from interop.peer import NONE, Feature, Refused, Way
from support.pki import key_and_csr

from broker.identity import Role

pytestmark = pytest.mark.asyncio(loop_scope="module")

DENIED = {4: 0x80, 5: 0x87}
WITH_TLS = [way for way in WAYS if way.scheme in ("mqtts", "wss")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def token(house: House) -> str:
    return (await house.broker.directory.token_issue("acme")).secret


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def certificate(house: House, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Path, Path]]:
    """Of kiosk-7, which is ada's and stands in milano; and its key."""
    directory = tmp_path_factory.mktemp("kiosk-7")
    private, request = key_and_csr()
    enrolled = await house.broker.directory.cert_issue(Role.DEVICE, "acme", "kiosk-7", request)
    certificate, key = directory / "device.crt", directory / "device.key"
    certificate.write_bytes(enrolled.certificate_pem)
    key.write_bytes(private)
    yield certificate, key
    key.unlink()


@pytest.mark.parametrize("way", WITH_TLS, ids=str)
async def test_with_a_token(scene: Scene, way: Way, token: str) -> None:
    """It is acme's server: it has acme's topics, and its messages get an id."""
    topic = f"acme/topic/{scene.prefix}"
    server = await scene.join(way, "server", username="acme", password=token)
    assert await server.subscribe(topic, "rival/#") == [1, DENIED[way.version]]
    await server.publish(topic, b"Ciao")
    message = await server.next()
    assert (message.topic, message.payload) == (topic, b"Ciao")
    if way.version == 5:
        assert [name for name, _ in message.properties.user] == ["message-id"]
    else:
        assert message.properties == NONE


@pytest.mark.parametrize("way", [way for way in WITH_TLS if Feature.CERTIFICATE in way.can], ids=str)
async def test_with_a_certificate(scene: Scene, way: Way, certificate: tuple[Path, Path]) -> None:
    """It is kiosk-7: it gets what is for ada, and nothing that is for others."""
    kiosk = await scene.join(way, "kiosk", certificate=certificate)
    denied = DENIED[way.version]
    assert await kiosk.subscribe("acme/user/ada", "acme/user/bob", "rival/user/ada") == [1, denied, denied]


@pytest.mark.parametrize("way", WITH_TLS, ids=str)
async def test_with_a_wrong_token(scene: Scene, way: Way) -> None:
    with pytest.raises(Refused) as refused:  # noqa: PT012 - some connect only when they subscribe
        peer = await scene.join(way, "stranger", username="acme", password="no-such-token")
        await peer.subscribe("acme/#")
    # Of 3.1.1, paho shows what it would be in MQTT 5.
    assert refused.value.reason in {4: (4, 0x86), 5: (0x86,)}[way.version]
