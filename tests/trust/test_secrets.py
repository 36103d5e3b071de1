"""Tokens, codes and passwords."""

import asyncio
import re
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from broker.errors import Refused
from broker.trust.directory import IssuedCode, IssuedToken
from broker.trust.gate import Presented
from broker.trust.secrets import CODE_ALPHABET, PasswordHasher, digest, new_code, new_token, normal_code, same

codes = st.text(CODE_ALPHABET, min_size=20, max_size=20)


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    found = PasswordHasher(memory_kib=64, time_cost=1, waiting_max=4)
    yield found
    found.close()


def test_tokens_are_long_marked_and_new_each_time() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"pbt_[A-Za-z0-9_-]{43}", token) for token in tokens)  # 43 characters of 6 bits: 256 bits


def test_codes_are_new_each_time_and_normal() -> None:
    made = {new_code() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{5}-){3}[0-9A-HJKMNP-TV-Z]{5}", code) for code in made)
    assert all(normal_code(code) == code for code in made)
    assert set("".join(made)) - {"-"} == set(CODE_ALPHABET)  # each of them has a chance: 2000 draws of 32


@given(codes, st.data())
def test_a_code_is_known_however_it_was_typed(code: str, data: st.DataObject) -> None:
    typed = ""
    for character in code:
        typed += data.draw(st.sampled_from(["", "-", " "]))
        typed += data.draw(st.sampled_from({"0": "0Oo", "1": "1IiLl"}.get(character, character + character.lower())))
    normal = normal_code(typed)
    assert normal is not None
    assert normal.replace("-", "") == code


@given(st.text())
def test_whatever_is_typed_is_a_normal_code_or_none(text: str) -> None:
    normal = normal_code(text)
    assert normal is None or (normal_code(normal) == normal and len(normal) == 23)


@pytest.mark.parametrize("wrong", ["", "ABCDE", "U" * 20, "A" * 19, "A" * 21, "\uff21" * 20, "\0" * 20, "٣" * 20])
def test_what_is_no_code(wrong: str) -> None:
    assert normal_code(wrong) is None


def test_digests() -> None:
    assert digest("ab") == digest(b"ab")
    assert len(digest("ab")) == 32
    assert same(digest("ab"), digest("ab"))
    assert not same(digest("ab"), digest("ac"))


@pytest.mark.parametrize(
    "shown",
    [
        IssuedToken(id="t1", brand="acme", name="crm", secret="HUSH", expires_at=None),
        IssuedCode(code="HUSH", brand="acme", device="kiosk-7", expires_at=None),  # type: ignore[arg-type]
        Presented(client_id="c", username="acme", password=b"HUSH"),
    ],
)
def test_secrets_are_shown_to_nobody_who_prints_them(shown: object) -> None:
    for text in (repr(shown), str(shown), f"{shown}", pretty_repr(shown), repr([shown])):
        assert "HUSH" not in text
        assert "acme" in text


async def test_a_password_is_argon2id_and_verified(hasher: PasswordHasher) -> None:
    kept = await hasher.hash("correct horse")
    assert kept.startswith("$argon2id$")
    assert kept != await hasher.hash("correct horse")  # salted
    assert await hasher.verify(kept, b"correct horse")
    assert not await hasher.verify(kept, b"correct house")
    assert not await hasher.verify(kept, b"\xff\xfe")
    assert not await hasher.verify("not a hash", b"correct horse")


async def test_without_a_hash_it_is_the_same_work(hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dummy goes through argon2 to the end, with the parameters of a real one; it is not turned down unread."""
    kept = await hasher.hash("correct horse")
    assert hasher._nobody.rsplit("$", 2)[0] == kept.rsplit("$", 2)[0]
    assert [len(part) for part in hasher._nobody.split("$")] == [len(part) for part in kept.split("$")]
    import argon2

    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        hasher._argon2.verify(hasher._nobody, b"anything")
    against: list[str] = []
    monkeypatch.setattr(hasher, "_verify", lambda password_hash, password: against.append(password_hash))
    assert not await hasher.verify(None, b"anything")
    assert against == [hasher._nobody]


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
async def test_passwords_have_bounds(hasher: PasswordHasher, password: str) -> None:
    with pytest.raises(Refused, match="too short or too long"):
        await hasher.hash(password)


async def test_an_endless_password_costs_nothing(hasher: PasswordHasher) -> None:
    assert not await hasher.verify(None, b"x" * 1025)
    assert not hasher._work
    assert not hasher._pool._threads


async def test_hashing_is_off_the_loop_and_bounded(hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    at_work: list[str] = []

    def slow(password_hash: str, password: bytes) -> bool:
        at_work.append(threading.current_thread().name)
        return go_on.wait(10)

    monkeypatch.setattr(hasher, "_verify", slow)
    waiting = [asyncio.create_task(hasher.verify(None, b"p")) for _ in range(4)]
    await asyncio.sleep(0)  # they have asked
    with pytest.raises(Refused) as caught:
        await hasher.verify(None, b"one too many")
    assert caught.value.reason == 0x89
    assert len(at_work) <= 2
    go_on.set()
    assert await asyncio.gather(*waiting) == [True] * 4
    assert all(name.startswith("password") for name in at_work)
    assert await hasher.verify(None, b"there is room again")


async def test_who_stops_waiting_makes_room_only_when_the_work_is_done(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that connect and leave again must not pile up work behind the bound."""
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def slow(password_hash: str, password: bytes) -> bool:
        begun.release()
        return go_on.wait(10)

    monkeypatch.setattr(hasher, "_verify", slow)
    waiting = [asyncio.create_task(hasher.verify(None, b"p")) for _ in range(4)]
    await asyncio.sleep(0)
    assert begun.acquire(timeout=10)
    assert begun.acquire(timeout=10)  # both workers are at it; two wait
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(hasher._work) == 2
    go_on.set()
