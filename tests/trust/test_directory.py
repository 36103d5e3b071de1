"""The directory: what may be changed, what a change takes with it, and who is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from support.identities import Clock, directory_in, new_key, request_for

from broker.errors import NotFound, Refused
from broker.identity import Identity, Role
from broker.store.entries import DeviceState, Overflow
from broker.trust.directory import Directory, Enrolled, open_directory

CALLS: dict[str, Callable[[Directory, str], Awaitable[object]]] = {
    "user": lambda d, brand: d.user_show(brand, "ada"),
    "user remove": lambda d, brand: d.user_remove(brand, "ada"),
    "store": lambda d, brand: d.store_show(brand, "milano"),
    "store remove": lambda d, brand: d.store_remove(brand, "milano"),
    "device": lambda d, brand: d.device_show(brand, "kiosk-7"),
    "device revoke": lambda d, brand: d.device_revoke(brand, "kiosk-7"),
    "device remove": lambda d, brand: d.device_remove(brand, "kiosk-7"),
    "device assign": lambda d, brand: d.device_assign(brand, "kiosk-7", user="ada"),
    "devices of a user": lambda d, brand: d.device_list(brand, user="ada"),
    "devices in a store": lambda d, brand: d.device_list(brand, store="milano"),
    "code for a user": lambda d, brand: d.device_code(brand, "kiosk-8", user="ada"),
    "password": lambda d, brand: d.password_remove(brand, Role.SERVER, "crm"),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def directory(tmp_path: Path, clock: Clock) -> AsyncIterator[Directory]:
    async with directory_in(tmp_path, clock) as found:
        yield found


@pytest.fixture
def told(directory: Directory) -> list[tuple[str, bool]]:
    """What watchers were told, each once it was on the disk."""
    found: list[tuple[str, bool]] = []
    directory.watch(lambda path, gone: found.append((path, gone)))
    return found


async def enrolled(directory: Directory, device: str = "kiosk-7", *, user: str = "", store: str = "") -> Enrolled:
    issued = await directory.device_code("acme", device, user=user, store=store)
    return await directory.enrol(issued.code, request_for(new_key()))


# -- brands, users, stores ---------------------------------------------------------------------------------------------


async def test_brands(directory: Directory, clock: Clock) -> None:
    await directory.brand_add("bolt")
    await directory.token_issue("acme", ttl_s=60)
    assert [brand.name for brand in await directory.brand_list()] == ["acme", "bolt"]
    shown = await directory.brand_show("acme")
    assert (shown.title, shown.users, shown.stores, shown.devices, shown.tokens) == ("Acme S.p.A.", 1, 1, 0, 1)
    assert shown.created_at == clock()
    clock.turn(seconds=60)
    assert (await directory.brand_show("acme")).tokens == 0  # expired


async def test_changing_a_brand(directory: Directory, told: list[tuple[str, bool]]) -> None:
    brand = await directory.brand_set("acme", overflow=Overflow.DROP_OLDEST)
    assert (brand.title, brand.overflow) == ("Acme S.p.A.", Overflow.DROP_OLDEST)
    brand = await directory.brand_set("acme", title="")
    assert (brand.title, brand.overflow) == ("", Overflow.DROP_OLDEST)
    assert await directory.brand_show("acme") == brand
    assert told == []  # nobody's rights have changed: no connection ends
    with pytest.raises(NotFound) as caught:
        await directory.brand_set("bolt", title="Bolt")
    assert caught.value.remedy == "pushbroker brand add bolt"


async def test_users_and_stores(directory: Directory) -> None:
    await directory.brand_add("bolt")
    await directory.user_add("bolt", "ada", "another one")
    await directory.store_add("bolt", "roma")
    assert [(user.brand, user.name) for user in await directory.user_list()] == [("acme", "ada"), ("bolt", "ada")]
    assert [user.title for user in await directory.user_list("bolt")] == ["another one"]
    assert [store.name for store in await directory.store_list("bolt")] == ["roma"]
    assert [store.name for store in await directory.store_list()] == ["milano", "roma"]


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a b", "$SYS", "-a", "a" * 65, "ä", "a\n"])
async def test_names_that_cannot_be(directory: Directory, name: str) -> None:
    for call in (
        directory.brand_add(name),
        directory.user_add("acme", name),
        directory.store_add("acme", name),
        directory.device_code("acme", name),
        directory.token_issue("acme", name),
        directory.password_set("acme", Role.DEVICE, name, "long enough"),
        directory.cert_issue(Role.SERVER, "acme", name, request_for(new_key())),
        directory.cert_issue(Role.ADMIN, "", name, request_for(new_key())),
    ):
        with pytest.raises(Refused) as caught:
            await call
        assert caught.value.reason == 0x90
        assert caught.value.remedy


@pytest.mark.parametrize("name", ["admin", "enrol"])
async def test_reserved_brands(directory: Directory, name: str) -> None:
    with pytest.raises(Refused, match="reserved"):
        await directory.brand_add(name)


async def test_titles_have_bounds(directory: Directory) -> None:
    for title in ("x" * 201, "two\nlines", "\x1b[31m"):
        for call in (directory.brand_add("bolt", title), directory.brand_set("acme", title)):
            with pytest.raises(Refused, match="title"):
                await call


async def test_what_is_there_already(directory: Directory) -> None:
    for call, remedy in (
        (directory.brand_add("acme"), "pushbroker brand show acme"),
        (directory.user_add("acme", "ada"), "pushbroker user show acme ada"),
        (directory.store_add("acme", "milano"), "pushbroker store show acme milano"),
    ):
        with pytest.raises(Refused, match="already") as caught:
            await call
        assert caught.value.remedy == remedy
        assert not isinstance(caught.value, NotFound)


async def test_two_at_once_cannot_both_add(directory: Directory) -> None:
    results = await asyncio.gather(*(directory.brand_add("bolt") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, Refused) for result in results) == 4


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_what_another_brand_has_makes_no_difference(
    directory: Directory, call: Callable[[Directory, str], Awaitable[object]]
) -> None:
    """Not found is said in the same words, and nothing of the other brand is touched."""
    await directory.brand_add("bolt")

    async def said() -> tuple[str, str]:
        with pytest.raises(NotFound) as caught:
            await call(directory, "bolt")
        assert caught.value.exit_code == 3
        return caught.value.message, caught.value.remedy

    with_it = await said()
    await directory.device_code("acme", "kiosk-7", user="ada", store="milano")
    await directory.password_set("acme", Role.SERVER, "crm", "long enough")
    assert await said() == with_it
    assert "acme" not in "".join(with_it)
    assert (await directory.device_show("acme", "kiosk-7")).user == "ada"


async def test_remedies_can_be_typed(directory: Directory) -> None:
    for call, remedy in (
        (directory.user_show("nobody", "ada"), "pushbroker brand add nobody"),
        (directory.user_show("acmi", "ada"), "Did you mean 'acme'? pushbroker brand list shows them all."),
        (directory.user_show("acme", "bob"), "pushbroker user list acme, or pushbroker user add acme bob"),
        (directory.store_show("acme", "roma"), "pushbroker store list acme, or pushbroker store add acme roma"),
        (directory.device_show("acme", "kiosk-7"), "pushbroker device code acme kiosk-7"),
        (directory.token_revoke("acme", "t1"), "pushbroker brand token list acme"),
        (directory.cert_revoke("ff"), "pushbroker cert list"),
        (directory.brand_show("; rm -rf /"), "pushbroker brand add '; rm -rf /'"),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.remedy == remedy


async def test_names_that_were_perhaps_meant(directory: Directory) -> None:
    """Of the same brand only: another brand's names are its own business."""
    await directory.brand_add("bolt")
    for brand, name in (("acme", "bob"), ("acme", "bobby"), ("bolt", "bobo")):
        await directory.user_add(brand, name)
    await directory.device_code("acme", "kiosk-7")
    await directory.device_code("bolt", "kiosk-77")
    list_them = "pushbroker {} list acme shows them all."
    for call, remedy in (
        (directory.user_show("acme", "bbo"), "Did you mean 'bob'? " + list_them.format("user")),
        (directory.user_remove("acme", "bobb"), "Did you mean 'bobby' or 'bob'? " + list_them.format("user")),
        (
            directory.device_code("acme", "new", user="boby"),
            "Did you mean 'bobby' or 'bob'? " + list_them.format("user"),
        ),
        (directory.device_list("acme", store="milan"), "Did you mean 'milano'? " + list_them.format("store")),
        (directory.device_revoke("acme", "kiosk7"), "Did you mean 'kiosk-7'? " + list_them.format("device")),
        (directory.store_show("bolt", "milan"), "pushbroker store add bolt milan"),
        (directory.user_show("bolt", "bob"), "Did you mean 'bobo'? pushbroker user list bolt shows them all."),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.remedy == remedy


async def test_names_are_compared_with_a_bounded_number_of_others(directory: Directory) -> None:
    async with directory.records.transaction():
        for number in range(1200):
            await directory.records.add_place("user", "acme", f"u{number:05}", "", directory.now())
    assert len(await directory.records.names_near("user", "acme", "u00600x", 200)) == 400
    with pytest.raises(NotFound, match="no user") as caught:
        await directory.user_show("acme", "u00600x")
    assert "'u00600'" in caught.value.remedy


async def test_removing_a_user_or_store_unassigns_its_devices(
    directory: Directory, told: list[tuple[str, bool]]
) -> None:
    for device in ("kiosk-2", "kiosk-1"):
        await directory.device_code("acme", device, user="ada", store="milano")
    await directory.device_code("acme", "other")
    told.clear()
    removed = await directory.user_remove("acme", "ada")
    assert (removed.what, removed.users, removed.unassigned) == ("user ada of acme", 1, ("kiosk-1", "kiosk-2"))
    assert told == [("acme/device/kiosk-1", False), ("acme/device/kiosk-2", False)]
    assert [(d.user, d.store) for d in await directory.device_list("acme")] == [
        ("", "milano"),
        ("", "milano"),
        ("", ""),
    ]
    removed = await directory.store_remove("acme", "milano")
    assert (removed.stores, removed.unassigned) == (1, ("kiosk-1", "kiosk-2"))
    with pytest.raises(NotFound):
        await directory.store_show("acme", "milano")


async def test_removing_a_brand_removes_all_of_it(directory: Directory, told: list[tuple[str, bool]]) -> None:
    await enrolled(directory, user="ada")
    await directory.token_issue("acme")
    await directory.cert_issue(Role.ADMIN, "", "root", request_for(new_key()))
    told.clear()
    removed = await directory.brand_remove("acme")
    assert msgspec.to_builtins(removed) == {
        "what": "brand acme",
        "users": 1,
        "stores": 1,
        "devices": 1,
        "tokens": 1,
        "passwords": 0,
        "certificates": 1,
        "unassigned": (),
    }
    assert told == [("acme/", True)]
    assert [found.identity for found in await directory.cert_list()] == ["admin/root"]
    with pytest.raises(NotFound):
        await directory.brand_show("acme")


# -- watching ----------------------------------------------------------------------------------------------------------


async def test_watchers_are_told_after_the_commit(directory: Directory) -> None:
    """When they are called, another connection to the database sees the change."""
    import sqlite3

    await enrolled(directory)
    states: list[str] = []

    def look(path: str, gone: bool) -> None:
        with sqlite3.connect(f"file:{directory.records.path}?mode=ro", uri=True) as db:
            states.extend(row[0] for row in db.execute("SELECT state FROM devices"))
        db.close()

    directory.watch(look)
    await directory.device_revoke("acme", "kiosk-7")
    assert set(states) == {"revoked"}


async def test_nobody_is_told_of_what_did_not_happen(directory: Directory, told: list[tuple[str, bool]]) -> None:
    await enrolled(directory, user="ada")
    told.clear()
    with pytest.raises(NotFound):
        await directory.device_assign("acme", "kiosk-7", user="ada", store="nowhere")
    await directory.device_assign("acme", "kiosk-7", user="ada")  # as it is
    assert told == []


async def test_who_stops_watching_is_told_no_more(directory: Directory) -> None:
    found: list[str] = []
    stop = directory.watch(lambda path, gone: found.append(path))
    await directory.brand_add("bolt")
    await directory.brand_remove("bolt")
    stop()
    await directory.brand_remove("acme")
    assert found == ["bolt/"]


async def test_who_watches_overflow_is_told_now_and_after_each_change(directory: Directory) -> None:
    told: list[set[str]] = []
    await directory.brand_set("acme", overflow=Overflow.DROP_OLDEST)
    await directory.watch_overflow(lambda names: told.append(set(names)))
    assert told == [{"acme"}]
    await directory.brand_add("bolt", overflow=Overflow.DROP_OLDEST)
    await directory.brand_set("acme", overflow=Overflow.REJECT)
    await directory.brand_remove("bolt")
    await directory.brand_add("bolt")  # another one, of the same name
    assert told == [{"acme"}, {"acme", "bolt"}, {"bolt"}, set(), set()]
    with pytest.raises(Refused):
        await directory.brand_add("bolt", overflow=Overflow.DROP_OLDEST)
    assert len(told) == 5


async def test_changes_at_once_are_told_in_the_order_in_which_they_were_made(directory: Directory) -> None:
    told: list[set[str]] = []
    names = [f"brand-{number}" for number in range(8)]
    await asyncio.gather(
        *(directory.brand_add(name, overflow=Overflow.DROP_OLDEST) for name in names[:4]),
        directory.watch_overflow(lambda names: told.append(set(names))),
        *(directory.brand_add(name, overflow=Overflow.DROP_OLDEST) for name in names[4:]),
    )
    assert told[-1] == set(names)
    assert told == sorted(told, key=len)


# -- devices and codes -------------------------------------------------------------------------------------------------


async def test_a_device_from_code_to_certificate(
    directory: Directory, clock: Clock, told: list[tuple[str, bool]]
) -> None:
    issued = await directory.device_code("acme", "kiosk-7", user="ada", store="milano", ttl_s=600)
    device = await directory.device_show("acme", "kiosk-7")
    assert (device.state, device.enrolled_at, device.user, device.store) == (DeviceState.PENDING, None, "ada", "milano")
    assert (device.code_expires_at == issued.expires_at) is True
    clock.turn(seconds=599)
    key = new_key()
    found = await directory.enrol(issued.code.lower().replace("-", " "), request_for(key))
    assert found.identity == Identity(Role.DEVICE, "acme", "kiosk-7", "ada", "milano")
    assert found.ca_pem == directory.authority.ca_pem
    assert directory.authority.inspect(found.certificate_pem).serial == found.serial
    device = await directory.device_show("acme", "kiosk-7")
    assert (device.state, device.enrolled_at) == (DeviceState.ACTIVE, clock())
    assert device.certificate_not_after == found.not_after
    assert device.code_expires_at is None  # used
    assert [kept.serial for kept in await directory.cert_list("acme")] == [found.serial]


async def test_a_lost_answer_is_given_again_to_the_same_key_only(directory: Directory, clock: Clock) -> None:
    issued = await directory.device_code("acme", "kiosk-7", ttl_s=600)
    key = new_key()
    first = await directory.enrol(issued.code, request_for(key))
    clock.turn(seconds=599)
    assert await directory.enrol(issued.code, request_for(key)) == first  # another request, the same key
    with pytest.raises(Refused, match="another key") as caught:
        await directory.enrol(issued.code, request_for(new_key()))
    assert caught.value.remedy == "pushbroker device code acme kiosk-7"
    assert len(await directory.cert_list("acme")) == 1
    clock.turn(seconds=1)
    with pytest.raises(Refused, match="not valid") as caught:
        await directory.enrol(issued.code, request_for(key))
    assert caught.value.reason == 0x86


async def test_of_two_at_once_one_gets_the_code(directory: Directory) -> None:
    issued = await directory.device_code("acme", "kiosk-7")
    requests = [request_for(new_key()) for _ in range(5)]
    results = await asyncio.gather(*(directory.enrol(issued.code, r) for r in requests), return_exceptions=True)
    assert sum(isinstance(result, Enrolled) for result in results) == 1
    assert sum(isinstance(result, Refused) for result in results) == 4


async def test_a_lost_answer_is_not_given_again_once_it_was_revoked(directory: Directory) -> None:
    issued = await directory.device_code("acme", "kiosk-7")
    request = request_for(new_key())
    found = await directory.enrol(issued.code, request)
    await directory.cert_revoke(found.serial)
    with pytest.raises(Refused, match="was revoked"):
        await directory.enrol(issued.code, request)


async def test_codes_that_are_not_valid_all_get_the_same_answer(directory: Directory, clock: Clock) -> None:
    replaced = await directory.device_code("acme", "kiosk-7")
    await directory.device_code("acme", "kiosk-7")
    expired = await directory.device_code("acme", "kiosk-8", ttl_s=1)
    gone = await directory.device_code("acme", "kiosk-9")
    await directory.device_remove("acme", "kiosk-9")
    revoked = await directory.device_code("acme", "kiosk-10")
    await directory.device_revoke("acme", "kiosk-10")
    clock.turn(seconds=1)
    said = set()
    for code in ("", "junk", "A" * 20, replaced.code, expired.code, gone.code, revoked.code):
        with pytest.raises(Refused) as caught:
            await directory.enrol(code, request_for(new_key()))
        said.add((caught.value.message, caught.value.reason, caught.value.remedy))
    assert len(said) == 1


async def test_a_bad_request_does_not_use_up_the_code(directory: Directory) -> None:
    issued = await directory.device_code("acme", "kiosk-7")
    with pytest.raises(Refused, match="signing request"):
        await directory.enrol(issued.code, b"junk")
    assert await directory.enrol(issued.code, request_for(new_key()))


async def test_enrolling_again_replaces_the_machine(directory: Directory, told: list[tuple[str, bool]]) -> None:
    first = await enrolled(directory)
    told.clear()
    second = await enrolled(directory)
    assert told == [("acme/enrolling/kiosk-7", True), ("acme/device/kiosk-7", False)]
    good = {kept.serial: kept.revoked_at is None for kept in await directory.cert_list("acme")}
    assert good == {first.serial: False, second.serial: True}


async def test_a_code_keeps_and_changes_the_assignment(directory: Directory, told: list[tuple[str, bool]]) -> None:
    await directory.user_add("acme", "bob")
    await directory.device_code("acme", "kiosk-7", user="ada", store="milano")
    await directory.device_code("acme", "kiosk-7")
    assert (await directory.device_show("acme", "kiosk-7")).user == "ada"
    told.clear()
    await directory.device_code("acme", "kiosk-7", user="bob")
    device = await directory.device_show("acme", "kiosk-7")
    assert (device.user, device.store) == ("bob", "milano")
    assert ("acme/device/kiosk-7", False) in told


async def test_a_code_for_what_is_not_there_makes_no_device(directory: Directory) -> None:
    with pytest.raises(NotFound, match="no user 'bob'"):
        await directory.device_code("acme", "kiosk-7", user="bob")
    assert await directory.device_list("acme") == []


@pytest.mark.parametrize("ttl_s", [0, -1, 31 * 86400])
async def test_codes_and_tokens_have_bounds_in_time(directory: Directory, ttl_s: int) -> None:
    with pytest.raises(Refused, match="too short or too long"):
        await directory.device_code("acme", "kiosk-7", ttl_s=ttl_s)
    with pytest.raises(Refused, match="too short or too long"):
        await directory.token_issue("acme", ttl_s=ttl_s * 1000)


async def test_assigning(directory: Directory, told: list[tuple[str, bool]]) -> None:
    await enrolled(directory, user="ada", store="milano")
    told.clear()
    device = await directory.device_assign("acme", "kiosk-7", user="")
    assert (device.user, device.store) == ("", "milano")
    device = await directory.device_assign("acme", "kiosk-7", user="ada", store="")
    assert (device.user, device.store) == ("ada", "")
    assert told == [("acme/device/kiosk-7", False)] * 2
    assert [d.name for d in await directory.device_list("acme", user="ada")] == ["kiosk-7"]
    assert await directory.device_list("acme", store="milano") == []
    assert (await directory.user_show("acme", "ada")).devices == 1


async def test_revoking_a_device_takes_all_that_it_has(directory: Directory, told: list[tuple[str, bool]]) -> None:
    first = await enrolled(directory)
    await directory.password_set("acme", Role.DEVICE, "kiosk-7", "long enough")
    waiting = await directory.device_code("acme", "kiosk-7")
    told.clear()
    device = await directory.device_revoke("acme", "kiosk-7")
    assert (device.state, device.password, device.certificate_not_after) == (DeviceState.REVOKED, False, None)
    assert told == [("acme/device/kiosk-7", True), ("acme/enrolling/kiosk-7", True)]
    assert (await directory.cert_list("acme"))[0].revoked_at is not None
    for call in (
        directory.enrol(waiting.code, request_for(new_key())),
        directory.cert_renew(Role.DEVICE, "acme", "kiosk-7", request_for(new_key())),
        directory.cert_issue(Role.DEVICE, "acme", "kiosk-7", request_for(new_key())),
        directory.password_set("acme", Role.DEVICE, "kiosk-7", "long enough"),
    ):
        with pytest.raises(Refused):
            await call
    second = await enrolled(directory)  # a new code lets it in again
    assert (await directory.device_show("acme", "kiosk-7")).state is DeviceState.ACTIVE
    good = {kept.serial: kept.revoked_at is None for kept in await directory.cert_list("acme")}
    assert good == {first.serial: False, second.serial: True}


async def test_removing_a_device(directory: Directory, told: list[tuple[str, bool]]) -> None:
    await enrolled(directory)
    told.clear()
    removed = await directory.device_remove("acme", "kiosk-7")
    assert (removed.devices, removed.certificates) == (1, 1)
    assert told == [("acme/device/kiosk-7", True), ("acme/enrolling/kiosk-7", True)]
    assert await directory.cert_list("acme") == []


# -- tokens and passwords ----------------------------------------------------------------------------------------------


async def test_tokens(directory: Directory, clock: Clock, told: list[tuple[str, bool]]) -> None:
    first = await directory.token_issue("acme", "crm", ttl_s=60)
    second = await directory.token_issue("acme", "crm")
    assert first.expires_at is not None
    assert second.expires_at is None
    assert first.secret != second.secret
    revoked = await directory.token_revoke("acme", first.id)
    assert revoked.revoked_at == clock()
    assert told == [("acme/server/crm", False)]
    kept = {token.id: token for token in await directory.token_list("acme")}
    assert set(kept) == {first.id, second.id}
    assert kept[second.id].revoked_at is None


async def test_a_token_of_another_brand_is_not_found(directory: Directory) -> None:
    await directory.brand_add("bolt")
    issued = await directory.token_issue("acme")
    with pytest.raises(NotFound):
        await directory.token_revoke("bolt", issued.id)
    assert (await directory.token_list("acme"))[0].revoked_at is None


async def test_no_secret_is_on_the_disk(directory: Directory, tmp_path: Path) -> None:
    token = await directory.token_issue("acme")
    code = await directory.device_code("acme", "kiosk-7")
    await directory.password_set("acme", Role.SERVER, "crm", "correct horse")
    stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for secret in (token.secret, token.secret[4:], code.code, code.code.replace("-", ""), "correct horse"):
        assert secret.encode() not in stored
    assert b"$argon2id$" in stored


async def test_passwords(directory: Directory, told: list[tuple[str, bool]]) -> None:
    found = await directory.password_set("acme", Role.DEVICE, "till-3", "long enough")
    assert found.identity == "acme/device/till-3"
    device = await directory.device_show("acme", "till-3")
    assert (device.state, device.password) == (DeviceState.ACTIVE, True)
    await directory.password_remove("acme", Role.DEVICE, "till-3")
    device = await directory.device_show("acme", "till-3")
    assert (device.state, device.password) == (DeviceState.PENDING, False)
    assert told == [("acme/device/till-3", False)] * 2
    with pytest.raises(NotFound):
        await directory.password_remove("acme", Role.DEVICE, "till-3")


async def test_only_devices_and_servers_have_passwords(directory: Directory) -> None:
    for role in (Role.ADMIN, Role.ANONYMOUS, Role.ENROLLING):
        with pytest.raises(Refused):
            await directory.password_set("acme", role, "root", "long enough")


# -- certificates ------------------------------------------------------------------------------------------------------


async def test_certificates_for_servers_admins_and_devices(directory: Directory, told: list[tuple[str, bool]]) -> None:
    for role, brand, name, path in (
        (Role.SERVER, "acme", "crm", "acme/server/crm"),
        (Role.ADMIN, "", "root", "admin/root"),
        (Role.DEVICE, "acme", "kiosk-9", "acme/device/kiosk-9"),
    ):
        found = await directory.cert_issue(role, brand, name, request_for(new_key()))
        assert found.identity.path == path
    assert {kept.identity for kept in await directory.cert_list()} == {
        "acme/server/crm",
        "admin/root",
        "acme/device/kiosk-9",
    }
    assert {kept.identity for kept in await directory.cert_list("acme")} == {"acme/server/crm", "acme/device/kiosk-9"}
    assert (await directory.device_show("acme", "kiosk-9")).state is DeviceState.ACTIVE
    assert told == []  # more rights concern nobody who is connected
    with pytest.raises(NotFound):
        await directory.cert_issue(Role.SERVER, "bolt", "crm", request_for(new_key()))
    with pytest.raises(Refused):
        await directory.cert_issue(Role.ENROLLING, "acme", "crm", request_for(new_key()))


async def test_renewing_leaves_the_old_one_good(directory: Directory, clock: Clock) -> None:
    first = await enrolled(directory, user="ada")
    clock.turn(days=300)
    second = await directory.cert_renew(Role.DEVICE, "acme", "kiosk-7", request_for(new_key()))
    assert second.identity == first.identity
    assert second.not_after - first.not_after > (first.not_after - clock()) * 2
    assert all(kept.revoked_at is None for kept in await directory.cert_list("acme"))


async def test_renewing_needs_a_certificate_that_counts(directory: Directory, clock: Clock) -> None:
    await directory.password_set("acme", Role.DEVICE, "till-3", "long enough")
    found = await enrolled(directory)
    for name in ("till-3", "unknown"):
        with pytest.raises(Refused, match="no certificate to renew") as caught:
            await directory.cert_renew(Role.DEVICE, "acme", name, request_for(new_key()))
        assert caught.value.remedy == f"pushbroker device code acme {name}"
    clock.turn(days=366)
    with pytest.raises(Refused, match="no certificate to renew"):
        await directory.cert_renew(found.identity.role, "acme", "kiosk-7", request_for(new_key()))


async def test_a_device_cannot_fill_the_records_by_renewing(directory: Directory, clock: Clock) -> None:
    await enrolled(directory)
    for _ in range(9):
        await directory.cert_renew(Role.DEVICE, "acme", "kiosk-7", request_for(new_key()))
    with pytest.raises(Refused) as caught:
        await directory.cert_renew(Role.DEVICE, "acme", "kiosk-7", request_for(new_key()))
    assert caught.value.reason == 0x97
    clock.turn(days=1)
    await directory.cert_renew(Role.DEVICE, "acme", "kiosk-7", request_for(new_key()))


async def test_revoking_a_certificate(directory: Directory, clock: Clock, told: list[tuple[str, bool]]) -> None:
    found = await enrolled(directory)
    told.clear()
    octets = found.serial.zfill(40).upper()
    typed = ":".join(octets[at : at + 2] for at in range(0, 40, 2))  # as openssl and browsers show it
    revoked = await directory.cert_revoke(typed)
    assert (revoked.serial, revoked.revoked_at) == (found.serial, clock())
    assert told == [("acme/device/kiosk-7", False)]
    assert (await directory.device_show("acme", "kiosk-7")).state is DeviceState.PENDING
    clock.turn(days=1)
    assert await directory.cert_revoke(found.serial) == revoked  # the first time counts


# -- the whole ---------------------------------------------------------------------------------------------------------


async def test_it_opens_makes_what_is_missing_and_finds_it_again(tmp_path: Path) -> None:
    async with open_directory(tmp_path, trust_domain="pushbroker.local") as directory:
        await directory.brand_add("acme")
        ca = directory.authority.ca_pem
    async with open_directory(tmp_path, trust_domain="pushbroker.local") as directory:
        assert [brand.name for brand in await directory.brand_list()] == ["acme"]
        assert directory.authority.ca_pem == ca


async def test_what_it_returns_can_be_sent_as_json(directory: Directory) -> None:
    """The admin socket and `--json` show these as they are."""
    found = await enrolled(directory, user="ada")
    for value in (await directory.brand_list(), await directory.device_list(), await directory.cert_list(), found):
        assert msgspec.json.decode(msgspec.json.encode(value))
