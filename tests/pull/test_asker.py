"""Who asks, as the records know them."""

from pathlib import Path

import pytest

from broker.bridge.people import People, Wanted
from broker.pull.asker import asker_of, language_of
from broker.pull.question import Asker
from broker.store.content import Content, connect
from broker.trust.directory import open_directory


@pytest.mark.parametrize(
    ("locale", "language"),
    [("it-IT", "it"), ("de_CH", "de"), ("EN", "en"), ("zh-Hant", "zh"), ("", ""), ("x", ""), ("12", ""), ("-it", "")],
)
def test_a_locale_begins_with_a_language(locale: str, language: str) -> None:
    assert language_of(locale) == language


async def test_a_user_is_known_by_tags_attributes_and_preferences_and_a_device_by_its_own(tmp_path: Path) -> None:
    await (await Content.open(tmp_path / "content.db")).close()
    async with open_directory(tmp_path, trust_domain="test.local") as directory:
        for brand in ("acme", "rival"):
            await directory.brand_add(brand)
            await directory.user_add(brand, "ada", title=f"Ada of {brand}")
        await directory.device_code("acme", "kiosk-7")
        people = People(directory)
        await people.tag("acme", "user", "ada", ("vip",))
        await people.set("acme", "user", "ada", {"size": "38"})
        await people.say("acme", "ada", Wanted(locale="de-CH", time_zone="Europe/Zurich"))
        await people.tag("acme", "device", "kiosk-7", ("front",))
        db = connect(tmp_path / "content.db", directory.records.path)
        ada = asker_of(db, "acme", "kiosk-7", "ada", "milano")
        assert ada == Asker(
            brand="acme", device="kiosk-7", user="ada", store="milano", language="de", time_zone="Europe/Zurich",
            title="Ada of acme", tags=frozenset({"vip"}), attributes={"size": "38"},
        )  # fmt: skip
        assert asker_of(db, "acme", "kiosk-7", "ada", "", "it-IT").language == "it"  # as the question says
        assert asker_of(db, "rival", "k", "ada", "").tags == frozenset()
        assert asker_of(db, "acme", "kiosk-7", "", "") == Asker(
            brand="acme", device="kiosk-7", tags=frozenset({"front"})
        )
        db.close()
