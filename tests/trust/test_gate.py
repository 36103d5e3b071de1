"""The gate: each way to prove an identity, and each way to fail."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.identities import Clock, der_of, directory_in, new_key, request_for

from broker.errors import Failed, Refused
from broker.identity import ANONYMOUS, Identity, Role
from broker.trust.directory import Directory
from broker.trust.gate import Gate, Presented
from broker.trust.secrets import PasswordHasher

KIOSK = Identity(Role.DEVICE, "acme", "kiosk-7", "ada", "milano")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def directory(tmp_path: Path, clock: Clock) -> AsyncIterator[Directory]:
    async with directory_in(tmp_path, clock, waiting_max=2) as found:
        yield found


@pytest.fixture
def gate(directory: Directory) -> Gate:
    return Gate(directory, allow_anonymous=False)


@pytest.fixture
def verified(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The hashes that passwords were verified against: how much argon2 an attempt cost."""
    hashes: list[str | None] = []
    verify = PasswordHasher.verify

    async def counted(self: PasswordHasher, password_hash: str | None, password: bytes) -> bool:
        hashes.append(password_hash)
        return await verify(self, password_hash, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    return hashes


def named(username: str | None, password: bytes | str | None = None) -> Presented:
    secret = password.encode() if isinstance(password, str) else password
    return Presented(client_id="c1", username=username, password=secret, address="192.0.2.1")


def shown(certificate_pem: bytes, username: str | None = None) -> Presented:
    return Presented(client_id="c1", username=username, certificate=der_of(certificate_pem), address="192.0.2.1")


async def kiosk(directory: Directory) -> bytes:
    issued = await directory.device_code("acme", "kiosk-7", user="ada", store="milano")
    return (await directory.enrol(issued.code, request_for(new_key()))).certificate_pem


async def admitted(gate: Gate, presented: Presented) -> Identity:
    return (await gate.admit(presented)).identity


async def refused(gate: Gate, presented: Presented) -> tuple[int, str, str]:
    assert gate.admit_now(presented) is None
    with pytest.raises(Refused) as caught:
        await gate.admit(presented)
    return caught.value.reason, caught.value.message, caught.value.remedy


async def test_how_long_it_is_good_for(directory: Directory, gate: Gate, clock: Clock) -> None:
    """A connection must not outlive what it was admitted with."""
    enrolled = await directory.cert_issue(Role.SERVER, "acme", "crm", request_for(new_key()))
    assert (await gate.admit(shown(enrolled.certificate_pem))).until == enrolled.not_after
    token = await directory.token_issue("acme", ttl_s=60)
    assert (await gate.admit(named("acme", token.secret))).until == token.expires_at == clock() + timedelta(seconds=60)
    code = await directory.device_code("acme", "kiosk-7")
    assert (await gate.admit(named("enrol", code.code))).until == code.expires_at
    await directory.password_set("acme", Role.SERVER, "erp", "long enough")
    assert (await gate.admit(named("acme/server/erp", "long enough"))).until is None


# -- nothing -----------------------------------------------------------------------------------------------------------


async def test_nothing_presented(directory: Directory, gate: Gate) -> None:
    nothing = Presented(client_id="c1")
    assert (await refused(gate, nothing))[0] == 0x87
    opened = Gate(directory, allow_anonymous=True)
    assert opened.admit_now(nothing) is ANONYMOUS
    assert await admitted(opened, nothing) is ANONYMOUS


async def test_open_mode_does_not_excuse_what_is_wrong(directory: Directory) -> None:
    opened = Gate(directory, allow_anonymous=True)
    for presented in (named("acme", "pbt_wrong"), named(""), named(None, b"x"), named("someone")):
        assert (await refused(opened, presented))[0] == 0x86


# -- certificates ------------------------------------------------------------------------------------------------------


async def test_a_device_is_known_with_its_user_and_store(directory: Directory, gate: Gate) -> None:
    certificate = await kiosk(directory)
    assert gate.admit_now(shown(certificate)) is None
    assert await admitted(gate, shown(certificate)) == KIOSK
    await directory.device_assign("acme", "kiosk-7", user="")
    assert await admitted(gate, shown(certificate)) == Identity(Role.DEVICE, "acme", "kiosk-7", "", "milano")


async def test_servers_and_admins(directory: Directory, gate: Gate) -> None:
    server = await directory.cert_issue(Role.SERVER, "acme", "crm", request_for(new_key()))
    admin = await directory.cert_issue(Role.ADMIN, "", "root", request_for(new_key()))
    assert await admitted(gate, shown(server.certificate_pem)) == Identity(Role.SERVER, "acme", "crm")
    assert await admitted(gate, shown(admin.certificate_pem)) == Identity(Role.ADMIN, name="root")


async def test_a_certificate_decides_alone(directory: Directory, gate: Gate) -> None:
    token = await directory.token_issue("acme")
    certificate = await kiosk(directory)
    both = Presented("c1", "acme", token.secret.encode(), der_of(certificate))
    assert await admitted(gate, both) == KIOSK
    await directory.device_revoke("acme", "kiosk-7")
    assert (await refused(gate, both))[0] == 0x87


async def test_a_revoked_certificate(directory: Directory, gate: Gate) -> None:
    first = await directory.cert_issue(Role.SERVER, "acme", "crm", request_for(new_key()))
    second = await directory.cert_renew(Role.SERVER, "acme", "crm", request_for(new_key()))
    await directory.cert_revoke(first.serial)
    reason, message, _ = await refused(gate, shown(first.certificate_pem))
    assert reason == 0x87
    assert "revoked" in message
    assert await admitted(gate, shown(second.certificate_pem))


@pytest.mark.parametrize("how", ["device_revoke", "device_remove", "brand_remove", "again", "record"])
async def test_an_identity_that_counts_no_more(directory: Directory, gate: Gate, how: str) -> None:
    certificate = await kiosk(directory)
    match how:
        case "device_revoke" | "device_remove":
            await getattr(directory, how)("acme", "kiosk-7")
        case "brand_remove":
            await directory.brand_remove("acme")
        case "again":  # removed, and enrolled again under the same name: the old certificate is still not good
            await directory.device_remove("acme", "kiosk-7")
            assert await admitted(gate, shown(await kiosk(directory))) == KIOSK
        case "record":  # our CA signed it, but nothing is known of it
            certificate = directory.authority.issue_from_csr(request_for(new_key()), KIOSK)
    assert (await refused(gate, shown(certificate)))[0] == 0x87


async def test_a_record_that_is_of_someone_else(directory: Directory, gate: Gate) -> None:
    """Certificate and record must say the same: a serial alone makes nobody another."""
    found = await directory.cert_issue(Role.SERVER, "acme", "crm", request_for(new_key()))
    async with directory.records.transaction():
        await directory.records._run("UPDATE certificates SET name = 'shop'")
    assert (await refused(gate, shown(found.certificate_pem)))[0] == 0x87


async def test_a_certificate_that_has_ended(directory: Directory, gate: Gate, clock: Clock) -> None:
    certificate = await kiosk(directory)
    clock.turn(days=365)
    assert "has ended" in (await refused(gate, shown(certificate)))[1]


async def test_a_certificate_that_names_nobody(directory: Directory, gate: Gate, tmp_path: Path) -> None:
    server = (tmp_path / "certs" / "server.crt").read_bytes()
    assert (await refused(gate, shown(server)))[0] == 0x87
    assert (await refused(gate, Presented("c1", certificate=os.urandom(100))))[0] == 0x87


# -- codes -------------------------------------------------------------------------------------------------------------


async def test_a_one_time_code(directory: Directory, gate: Gate, clock: Clock) -> None:
    issued = await directory.device_code("acme", "kiosk-7", user="ada", ttl_s=60)
    enrolling = Identity(Role.ENROLLING, "acme", "kiosk-7", "ada")
    assert await admitted(gate, named("enrol", issued.code)) == enrolling
    await directory.enrol(issued.code, request_for(new_key()))
    assert await admitted(gate, named("enrol", issued.code.lower())) == enrolling  # the answer may have been lost
    clock.turn(seconds=60)
    assert (await refused(gate, named("enrol", issued.code)))[0] == 0x86


async def test_wrong_codes_get_one_answer_and_cost_no_argon2(
    directory: Directory, gate: Gate, verified: list[str | None]
) -> None:
    replaced = await directory.device_code("acme", "kiosk-7")
    await directory.device_code("acme", "kiosk-7")
    answers = {
        await refused(gate, named("enrol", secret)) for secret in (None, b"", b"\xff\xfe", "A" * 20, replaced.code)
    }
    assert len(answers) == 1
    assert verified == []


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_a_token(directory: Directory, gate: Gate, clock: Clock) -> None:
    issued = await directory.token_issue("acme", "crm", ttl_s=60)
    assert await admitted(gate, named("acme", issued.secret)) == Identity(Role.SERVER, "acme", "crm")
    clock.turn(seconds=60)
    assert (await refused(gate, named("acme", issued.secret)))[0] == 0x86


async def test_wrong_tokens_get_one_answer_and_cost_no_argon2(
    directory: Directory, gate: Gate, verified: list[str | None]
) -> None:
    await directory.brand_add("bolt")
    good = await directory.token_issue("acme")
    revoked = await directory.token_issue("acme")
    await directory.token_revoke("acme", revoked.id)
    answers = {
        await refused(gate, presented)
        for presented in (
            named("acme", revoked.secret),
            named("acme", good.secret + "x"),
            named("acme", "pbt_"),
            named("acme", good.secret[4:]),
            named("acme"),
            named("bolt", good.secret),  # right, but another brand's
            named("nobody", good.secret),
            named("Acme", good.secret),
            named(None, good.secret),
        )
    }
    assert answers == {(0x86, "wrong user name or password", "")}
    assert verified == []


async def test_the_time_of_last_use_is_written_once_an_hour(
    directory: Directory, gate: Gate, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await directory.token_issue("acme")
    begun = clock()
    writes = 0
    touch = directory.records.touch_token

    async def counted(*arguments: object) -> None:
        nonlocal writes
        writes += 1
        await touch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(directory.records, "touch_token", counted)
    for _ in range(60):
        await gate.admit(named("acme", issued.secret))
        clock.turn(minutes=1)
    assert writes == 1
    assert (await directory.token_list("acme"))[0].used_at == begun
    await gate.admit(named("acme", issued.secret))
    assert writes == 2
    assert (await directory.token_list("acme"))[0].used_at == clock()


async def test_a_full_disk_keeps_no_server_out(
    directory: Directory, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await directory.token_issue("acme")

    async def full(*arguments: object) -> None:
        raise Failed("there is no room left")

    monkeypatch.setattr(directory.records, "touch_token", full)
    assert await admitted(gate, named("acme", issued.secret))


async def test_a_token_that_is_revoked_while_its_use_is_written(
    directory: Directory, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await directory.token_issue("acme")
    touch = directory.records.touch_token

    async def slow(token_id: str, now: object) -> None:
        await directory.records.revoke_token("acme", token_id, directory.now())
        await touch(token_id, now)  # type: ignore[arg-type]

    monkeypatch.setattr(directory.records, "touch_token", slow)
    assert (await refused(gate, named("acme", issued.secret)))[0] == 0x86


# -- passwords ---------------------------------------------------------------------------------------------------------


async def test_legacy_passwords(directory: Directory, gate: Gate) -> None:
    await directory.password_set("acme", Role.DEVICE, "till-3", "long enough")
    await directory.password_set("acme", Role.SERVER, "crm", "long enough, too")
    await directory.device_assign("acme", "till-3", user="ada", store="milano")
    till = Identity(Role.DEVICE, "acme", "till-3", "ada", "milano")
    assert await admitted(gate, named("acme/device/till-3", "long enough")) == till
    assert await admitted(gate, named("acme/server/crm", "long enough, too")) == Identity(Role.SERVER, "acme", "crm")


async def test_unknown_and_wrong_get_one_answer_for_the_same_work(
    directory: Directory, gate: Gate, verified: list[str | None]
) -> None:
    await directory.password_set("acme", Role.DEVICE, "till-3", "long enough")
    await directory.password_set("acme", Role.DEVICE, "lost", "long enough")
    await directory.device_revoke("acme", "lost")
    await kiosk(directory)  # has a certificate, and no password
    tries = [
        named("acme/device/till-3", "wrong password"),
        named("acme/device/till-3"),
        named("acme/device/unknown", "long enough"),
        named("acme/device/kiosk-7", "long enough"),
        named("acme/device/lost", "long enough"),
        named("acme/server/till-3", "long enough"),
        named("nobody/device/till-3", "long enough"),
    ]
    assert {await refused(gate, presented) for presented in tries} == {(0x86, "wrong user name or password", "")}
    assert len(verified) == len(tries)  # each of them paid
    assert sum(password_hash is None for password_hash in verified) == 5


@pytest.mark.parametrize(
    "username", ["", "acme", "a/b", "acme/admin/x", "admin/root", "acme/device/till-3/x", "enrol/x"]
)
async def test_names_of_no_form_cost_nothing(gate: Gate, verified: list[str | None], username: str) -> None:
    assert (await refused(gate, named(username, "long enough")))[0] == 0x86
    assert verified == []


async def test_when_too_many_passwords_wait_it_is_busy(directory: Directory, gate: Gate) -> None:
    await directory.password_set("acme", Role.DEVICE, "till-3", "long enough")
    token = await directory.token_issue("acme")
    attempts = [admitted(gate, named("acme/device/till-3", "long enough")) for _ in range(20)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    busy = [result for result in results if isinstance(result, Refused)]
    assert {error.reason for error in busy} == {0x89}
    assert 0 < len(busy) < 20
    assert await admitted(gate, named("acme", token.secret))  # tokens and certificates are not held up


@pytest.mark.parametrize("how", ["device_revoke", "device_remove", "password"])
async def test_what_is_revoked_during_the_hashing_does_not_count(
    directory: Directory, gate: Gate, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    await directory.password_set("acme", Role.DEVICE, "till-3", "long enough")
    verify = directory.passwords.verify

    async def slow(password_hash: str | None, password: bytes) -> bool:
        right = await verify(password_hash, password)
        if how == "password":
            await directory.password_set("acme", Role.DEVICE, "till-3", "long enough")
        else:
            await getattr(directory, how)("acme", "till-3")
        return right

    monkeypatch.setattr(directory.passwords, "verify", slow)
    assert (await refused(gate, named("acme/device/till-3", "long enough")))[0] == 0x86


async def test_records_that_cannot_be_read_are_failed_not_refused(directory: Directory, gate: Gate) -> None:
    """The client is told that we are unavailable, not that its password is wrong."""
    issued = await directory.token_issue("acme")
    path = directory.records.path
    await directory.records._run("PRAGMA wal_checkpoint(TRUNCATE)")
    await directory.records._run("PRAGMA shrink_memory")
    path.write_bytes(b"junk" * (path.stat().st_size // 4))
    with pytest.raises(Failed, match="damaged"):
        await gate.admit(named("acme", issued.secret))
