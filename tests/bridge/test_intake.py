"""The way from the core to the books."""

import asyncio
from typing import Any

import pytest

from broker import limits
from broker.bridge.books import RECEIPT_BYTES_MAX
from broker.bridge.facts import Saying, decode
from broker.bridge.intake import Intake, settling
from broker.identity import Identity, Role
from broker.message import Message


class Origin:
    """A session, as far as who it is matters."""

    identity = Identity(Role.DEVICE, brand="acme", name="kiosk-7", user="ada", store="milano")


@pytest.mark.parametrize(("size", "kept"), [(100, 100), (1 << 20, limits.SAYING_BYTES_MAX + 1)])
def test_of_what_is_too_long_only_that_is_written_down(size: int, kept: int) -> None:
    facts: list[bytes] = []
    nothing: Any = lambda *_: None  # noqa: E731
    intake = Intake(
        record=lambda body: facts.append(body) or 1, applied=nothing, booked=set(), serve=nothing, log=nothing,
        unexpected=nothing,
    )  # fmt: skip
    intake.heard(Message(b"acme/device/kiosk-7/up/conversation", b"x" * size, 1, False, b""), Origin())  # type: ignore[arg-type]
    saying = decode(facts[0])
    assert isinstance(saying, Saying)
    assert len(saying.payload) == kept


def test_nothing_that_may_be_said_is_longer() -> None:
    bounds = (RECEIPT_BYTES_MAX, limits.VOICE_BYTES_MAX, limits.PREFERENCES_BYTES_MAX, limits.RESULT_BYTES_MAX)
    assert max(*bounds, limits.REPORT_BYTES_MAX) <= limits.SAYING_BYTES_MAX


async def test_nobody_minds_an_answer_that_comes_when_its_asker_has_gone() -> None:
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settle = settling(told)
    told.cancel()
    settle(0)
    assert told.cancelled()
    waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settling(waiting)(16)
    assert await waiting == 16
