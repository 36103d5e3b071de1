"""Which links can be set up."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.live import settings

from broker.admin.direct import opened
from broker.admin.operations import Context, perform
from broker.errors import Refused

MAPPING = "crm/{user} -> acme/user/{user}"
FILE = __file__  # no certificate


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Context]:
    (tmp_path / "data").mkdir()
    async with opened(settings(tmp_path / "data")) as context:
        await context.directory.brand_add("acme")
        await context.directory.brand_add("rival")
        yield context


async def add(context: Context, **more: Any) -> Any:
    given = {"brand": "acme", "name": "crm", "url": "mqtt://x", "inbound": [MAPPING], **more}
    return await perform(context, "link.add", given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"brand": "nobody"}, "no brand"),
        ({"name": "-x-"}, "cannot name"),
        ({"name": "x" * 60}, "cannot name"),
        ({"url": "http://x"}, "is not a broker's URL"),
        ({"url": "mqtt://x:99999"}, "is not a broker's URL"),
        ({"url": "mqtt://x:0"}, "is not a broker's URL"),
        ({"url": "mqtt://me:pw@x"}, "ends up in logs"),
        ({"url": "mqtt://x/path"}, "has a path"),
        ({"version": "4"}, "version"),
        ({"inbound": []}, "without mappings"),
        ({"inbound": ["crm -> rival/user/x"]}, "not a topic of acme"),
        ({"inbound": [], "outbound": ["rival/user/{u} -> x/{u}"]}, "not a topic of acme"),
        ({"outbound": ["acme/user/{u} -> crm/{u}"]}, "in a circle"),
        ({"ca": FILE}, "not encrypted"),
        ({"url": "mqtts://x", "ca": FILE}, "of no use"),
        ({"url": "mqtts://x", "ca": "/not/there"}, "of no use: /not/there"),
        ({"url": "mqtts://x", "ca": "here.pem"}, "not an absolute path"),
        ({"url": "mqtts://x", "key": FILE}, "needs its certificate"),
        ({"client_id": "x" * 300}, "client id"),
        ({"password": "s3cr3t"}, "needs a user name"),
        ({"username": "me", "password": "x" * 70_000}, "too long"),
    ],
)
async def test_what_cannot_be_is_refused_and_leaves_nothing(
    records: Context, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused) as refused:
        await add(records, **given)
    assert words in refused.value.message
    assert "s3cr3t" not in refused.value.message
    assert await perform(records, "link.list", {}) == []


async def test_a_change_that_cannot_be_changes_nothing(records: Context) -> None:
    before = await add(records)
    with pytest.raises(Refused, match="circle"):
        await perform(records, "link.set", {"brand": "acme", "name": "crm", "outbound": ["acme/user/{u} -> crm/{u}"]})
    with pytest.raises(Refused, match="already"):
        await add(records)
    assert await perform(records, "link.show", {"brand": "acme", "name": "crm"}) == before


async def test_a_circle_through_another_link_of_the_brand_is_refused(records: Context) -> None:
    await add(records)
    with pytest.raises(Refused, match=r"back out: acme/user/\{u\} -> crm/\{u\}"):
        await add(records, name="back", inbound=[], outbound=["acme/user/{u} -> crm/{u}"])
    await add(records, name="elsewhere", url="mqtt://y", inbound=[], outbound=["acme/user/{u} -> crm/{u}"])
    await add(records, brand="rival", inbound=[], outbound=["rival/user/{u} -> crm/{u}"])


async def test_links_are_bounded(records: Context) -> None:
    for number in range(8):
        await add(records, name=f"l{number}", inbound=[f"a{number} -> acme/user/x"])
    with pytest.raises(Refused, match="8 and 32 are allowed") as refused:
        await add(records, name="l8")
    assert refused.value.reason == 0x97
    await add(records, brand="rival", inbound=["a -> rival/user/x"])


async def test_a_link_goes_with_its_brand_and_its_password_with_the_link(records: Context) -> None:
    await add(records, username="me", password="s3cr3t")
    table = records.book.table
    assert await table.password("acme", "crm") == "s3cr3t"
    await perform(records, "link.set", {"brand": "acme", "name": "crm", "url": "mqtt://y"})
    assert await table.password("acme", "crm") == "s3cr3t"
    shown = await perform(records, "link.set", {"brand": "acme", "name": "crm", "password": ""})
    assert shown["password"] is False
    assert await table.password("acme", "crm") is None
    await records.directory.brand_remove("acme")
    assert await perform(records, "link.list", {}) == []
