"""A brand's server with the SDK, through our own broker: its library of answers, and questions that it answers."""

import asyncio
import inspect
import itertools
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.kiosk import Handler, until
from support.ours import OurBroker

from client_sdk import (
    AsyncBrand,
    Backoff,
    Brand,
    Choice,
    Device,
    QuestionAsked,
    Rejected,
    Said,
    ServerAnswer,
    enrol,
)
from client_sdk.answering import Reaction
from client_sdk.content import Stored, compose_get, compose_put, compose_remove, compose_set

Quickly = Callable[[], Backoff]
RULES = {
    "routes": {
        "stock": {"time_limit_s": 20, "fallback": {"": "Later."}},
        "slow": {"time_limit_s": 0.5, "fallback": {"": "Later."}},
    },
    "commands": [{"words": ["left *"], "route": "stock"}, {"words": ["wait *"], "route": "slow"}],
}
CAKE = {"name": "cake", "language": "en", "title": "Chocolate cake", "data": {"price": 3, "left": 7}}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurBroker]:
    directory = tmp_path_factory.mktemp("answering")
    broker = OurBroker(directory / "data")
    (directory / "rules.json").write_text(json.dumps(RULES))
    broker.start()
    try:
        broker.command("brand", "add", "acme")
        broker.command("user", "add", "acme", "ada")
        broker.command("user", "tag", "acme", "ada", "vip")
        broker.command("content", "rules", "set", "acme", str(directory / "rules.json"))
        yield broker
    finally:
        broker.kill()


@pytest.fixture(scope="module")
def token(broker: OurBroker) -> str:
    return str(broker.command("brand", "token", "issue", "acme")["secret"])


@pytest.fixture
def device(
    broker: OurBroker, tmp_path: Path, handler: Handler, quickly: Quickly, names: Iterator[int]
) -> Iterator[Device]:
    """One of its own for each test: how much one may ask is bounded."""
    code = broker.command("device", "code", "acme", f"kiosk-{next(names)}", "--user", "ada")["code"]
    kiosk = enrol(url=broker.url, code=code, directory=tmp_path / "kiosk", ca=broker.ca, timeout=20)
    with Device(kiosk, on_message=handler, backoff=quickly()) as device:
        device.wait_connected(timeout=10)
        yield device


@pytest.fixture(scope="module")
def names() -> Iterator[int]:
    return itertools.count()


class Shop:
    """A brand's server of either kind, which tests use as if it had threads."""

    def __init__(self, brand: Brand | AsyncBrand, loop: asyncio.AbstractEventLoop | None) -> None:
        self.brand = brand
        self._loop = loop

    def do(self, result: Any) -> Any:
        """What a call returns, once it is there."""
        if not inspect.isawaitable(result):
            return result
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(_awaited(result), self._loop).result(20)

    def on_question(self, route: str, handler: Callable[[QuestionAsked], Reaction]) -> None:
        brand = self.brand
        if isinstance(brand, Brand):
            brand.on_question(route, handler)
            return

        async def answer(asked: QuestionAsked) -> Reaction:
            return await asyncio.to_thread(handler, asked)

        brand.on_question(route, answer)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


@pytest.fixture(params=["threads", "asyncio"])
def make(
    request: pytest.FixtureRequest, broker: OurBroker, token: str, quickly: Quickly
) -> Iterator[Callable[..., Shop]]:
    """Makes servers, which are entered and left by `running`."""
    loop = asyncio.new_event_loop() if request.param == "asyncio" else None
    if loop is not None:
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
    with ExitStack() as stack:

        def make(**handlers: Callable[[QuestionAsked], Reaction]) -> Shop:
            kind = Brand if loop is None else AsyncBrand
            brand = kind(broker.url, brand="acme", token=token, ca=broker.ca, receipts=False, backoff=quickly())
            shop = Shop(brand, loop)
            for route, handler in handlers.items():
                shop.on_question(route, handler)
            if isinstance(brand, Brand):
                stack.enter_context(brand)
            else:
                shop.do(brand.__aenter__())
                stack.callback(lambda: shop.do(brand.close()))
            return shop

        yield make
    if loop is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_items_are_put_changed_and_removed(make: Callable[..., Shop], device: Device) -> None:
    shop = make()
    content = shop.brand.content
    assert shop.do(content.put([CAKE, {**CAKE, "language": "it", "title": "Torta"}])) == Stored(2, 2, 0)
    assert device.ask("chocolate cake").data == {"price": 3, "left": 7}
    assert shop.do(content.set("cake", data={"left": 2})) == 2
    assert shop.do(content.set("cake", language="en", title="Best cake", keywords=None)) == 1
    found = {item["language"]: item for item in shop.do(content.get("cake"))}
    assert (found["en"]["title"], found["it"]["title"]) == ("Best cake", "Torta")
    assert found["it"]["data"] == {"price": 3, "left": 2}
    assert shop.do(content.remove("cake", language="it")) == 1
    assert shop.do(content.remove("cake", "never-there")) == 1
    with pytest.raises(Rejected) as caught:
        shop.do(content.get("cake"))
    assert caught.value.code == "not_found"


def test_items_that_are_not_right_hold_up_no_other(make: Callable[..., Shop]) -> None:
    shop = make()
    content = shop.brand.content
    stored = shop.do(content.put([{"name": "no-title"}, CAKE, {"name": "bad", "title": "x", "colour": "red"}]))
    assert (stored.changed, [(one.index, one.name, one.field) for one in stored.refused]) == (
        1,
        [(0, "no-title", "title"), (2, "bad", "colour")],
    )
    assert shop.do(content.put([CAKE])).same == 1
    assert shop.do(content.remove("cake")) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: compose_put(["cake"]),  # type: ignore[list-item]
        lambda: compose_put([{"name": "cake", "data": {"at": object()}}]),
        lambda: compose_put([{"name": "cake", "data": {"price": float("nan")}}]),
        lambda: compose_set("cake", None, {}),
        lambda: compose_set("a/b", None, {"title": "x"}),
        lambda: compose_remove((), None),
        lambda: compose_get(""),
    ],
)
def test_what_cannot_be_meant_is_not_sent(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"mappings|JSON|changed|cannot name|removed"):
        wrong()


def test_questions_are_answered(make: Callable[..., Shop], device: Device) -> None:
    seen: list[QuestionAsked] = []

    def stock(asked: QuestionAsked) -> Reaction:
        seen.append(asked)
        if asked.choice:
            return ServerAnswer(title="Reserved", data={"for": asked.user})
        if "cakes" in asked.text:
            return ServerAnswer(
                text="Which?", language="en", choices=[Choice("choc", "Chocolate"), Choice("app", "Apple")]
            )
        return "3 left"

    make(stock=stock)
    answer = device.ask("left apples", locale="en")
    assert (answer.kind, answer.by, answer.text) == ("answer", "server", "3 left")
    offered = device.ask("left cakes")
    assert [one.title for one in offered.choices] == ["Chocolate", "Apple"]
    until(lambda: device.conversation.history().entries[-1].answer == offered)  # the books may be a moment behind
    taken = device.ask(choice=offered.choices[0])
    assert (taken.title, taken.data) == ("Reserved", {"for": "ada"})
    first, _, last = seen
    assert (first.route, first.text, first.user, first.device, first.tags) == (
        "stock", "left apples", "ada", device.credentials.device, ("vip",),
    )  # fmt: skip
    offer = Said("server", "Which?\n1. Chocolate\n2. Apple")
    assert (last.choice, last.history[-2:]) == ("choc", (Said("customer", "left cakes"), offer))
    assert first.question != last.question
    device.conversation.close()


def test_handed_over_to_a_person(make: Callable[..., Shop], device: Device) -> None:
    make(stock=lambda _: ServerAnswer(hand_over=True))
    assert device.ask("left none").kind == "person"
    device.conversation.close()
    until(lambda: device.conversation.history().state == "closed")


def test_without_an_answer_the_fallback_holds(
    make: Callable[..., Shop], device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    said: dict[str, Any] = {"wait 0": None, "wait 1": "", "wait 2": 3, "wait 3": RuntimeError("out of order")}

    def slow(asked: QuestionAsked) -> Reaction:
        answer: Reaction = said[asked.text]
        if isinstance(answer, Exception):
            raise answer
        return answer

    make(slow=slow)
    with caplog.at_level(logging.ERROR), ThreadPoolExecutor() as pool:
        assert {answer.text for answer in pool.map(device.ask, said)} == {"Later."}
    failed = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert {*failed} == {ValueError, TypeError, RuntimeError}


def test_an_answer_that_the_broker_refuses_is_logged(
    make: Callable[..., Shop], device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    make(slow=lambda _: "x" * 5000)
    with caplog.at_level(logging.WARNING):
        assert device.ask("wait here").text == "Later."
        until(lambda: "is refused" in caplog.text)
    assert "bad_value" in caplog.text


def test_questions_are_answered_side_by_side(make: Callable[..., Shop], device: Device) -> None:
    both = threading.Barrier(2)

    def stock(asked: QuestionAsked) -> Reaction:
        both.wait(10)
        return asked.text

    shop = make(stock=stock)
    shop.on_question("other", lambda _: None)  # while it is connected, too
    with ThreadPoolExecutor() as pool:
        assert [answer.text for answer in pool.map(device.ask, ["left 0", "left 1"])] == ["left 0", "left 1"]


def test_two_programs_share_a_route(make: Callable[..., Shop], device: Device) -> None:
    counts = {"one": 0, "two": 0}

    def program(name: str) -> Callable[[QuestionAsked], Reaction]:
        def stock(_: QuestionAsked) -> Reaction:
            counts[name] += 1
            return name

        return stock

    make(stock=program("one"))
    make(stock=program("two"))
    for _ in range(4):
        device.ask("left something")
    assert sum(counts.values()) == 4


def test_answers_go_on_after_the_broker_was_killed(
    broker: OurBroker, token: str, device: Device, quickly: Quickly
) -> None:
    brand = Brand(broker.url, brand="acme", token=token, ca=broker.ca, receipts=False, backoff=quickly())
    brand.on_question("stock", lambda asked: f"about {asked.text}")
    with brand:
        assert device.ask("left one").text == "about left one"
        broker.kill()
        broker.start()
        assert brand.content.put([CAKE]).changed == 1  # it is connected again, and has subscribed
        device.wait_connected(timeout=10)
        assert device.ask("left two").text == "about left two"
        assert brand.content.remove("cake") == 1
