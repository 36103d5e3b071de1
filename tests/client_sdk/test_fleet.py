"""The fleet, the whole way: our broker, its commands, and the SDK's devices; killed and restarted on both sides."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kiosk import until
from support.ours import OurBroker

from client_sdk import AsyncDevice, Backoff, Credentials, Device, enrol
from client_sdk.fleet import Fleet
from client_sdk.memory import Memory
from client_sdk.topics import Place

Quickly = Callable[[], Backoff]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[OurBroker]:
    broker = OurBroker(tmp_path / "data")
    broker.start()
    broker.command("brand", "add", "acme")
    broker.command("store", "add", "acme", "milano")
    yield broker
    broker.kill()


@pytest.fixture
def kiosk(broker: OurBroker, tmp_path: Path) -> Credentials:
    code = broker.command("device", "code", "acme", "kiosk-7", "--store", "milano")["code"]
    return enrol(url=broker.url, code=code, directory=tmp_path / "kiosk-7", ca=broker.ca, timeout=20)


def device(kiosk: Credentials, quickly: Quickly) -> Device:
    return Device(kiosk, on_message=lambda _: None, backoff=quickly())


def shown(broker: OurBroker, id: str) -> Any:
    return broker.command("command", "show", id)


def test_told_answered_and_set_up(broker: OurBroker, kiosk: Credentials, quickly: Quickly) -> None:
    done: list[dict[str, str]] = []
    configs: list[dict[str, str]] = []

    def reload(args: dict[str, str]) -> str:
        done.append(args)
        return "reloaded"

    def fail(_: dict[str, str]) -> None:
        raise RuntimeError("no such page")

    with device(kiosk, quickly) as running:
        running.on_command("reload", reload)
        running.on_command("fail", fail)
        running.on_config(configs.append)
        running.wait_connected(timeout=10)
        (one,) = broker.command("device", "list", "acme", "--online")
        assert one["name"] == "kiosk-7"
        to = ("--store", "milano", "--arg", "page=home")
        first = broker.command("command", "run", "acme", "reload", *to)["id"]
        until(lambda: shown(broker, first)["done"])
        (result,) = shown(broker, first)["results"]
        assert (result["state"], result["output"], done) == ("succeeded", "reloaded", [{"page": "home"}])
        for name, error in (("fail", "no such page"), ("dance", "the device knows no command 'dance'")):
            id = broker.command("command", "run", "acme", name, "--all")["id"]
            until(lambda id=id: shown(broker, id)["done"])  # type: ignore[misc]
            (result,) = shown(broker, id)["results"]
            assert (result["state"], result["error"]) == ("failed", error)
        broker.command("device", "config", "set", "acme", "kiosk-7", "volume=3")
        until(lambda: not broker.command("device", "list", "acme", "--behind"))
        assert configs == [{"volume": "3"}]
    assert [one["name"] for one in broker.command("device", "list", "acme", "--offline")] == ["kiosk-7"]


def test_the_broker_is_killed_and_the_device_is_away(broker: OurBroker, kiosk: Credentials, quickly: Quickly) -> None:
    done: list[str] = []
    with device(kiosk, quickly) as first:
        first.on_command("reload", lambda _: done.append("first"))
        first.wait_connected(timeout=10)
        until(lambda: broker.command("device", "list", "acme", "--online"))
        id = broker.command("command", "run", "acme", "reload", "--all")["id"]
        until(lambda: shown(broker, id)["done"])
    id = broker.command("command", "run", "acme", "reload", "--all")["id"]
    broker.kill()
    broker.start()
    with device(kiosk, quickly) as second:
        second.on_command("reload", lambda _: done.append("second"))
        until(lambda: shown(broker, id)["done"])
    assert shown(broker, id)["succeeded"]
    assert done == ["first", "second"]


async def test_asyncio(broker: OurBroker, kiosk: Credentials, quickly: Quickly) -> None:
    configured = asyncio.Event()

    async def show(_: object) -> None: ...

    async def reload(args: dict[str, str]) -> str:
        await asyncio.sleep(0)
        return f"page {args['page']}"

    async def configure(config: dict[str, str]) -> None:
        assert config == {"volume": "3"}
        configured.set()

    def ask(*args: str) -> Any:
        return asyncio.to_thread(broker.command, *args)

    running = AsyncDevice(kiosk, on_message=show, backoff=quickly())
    running.on_command("reload", reload)
    running.on_config(configure)
    async with running:
        await running.wait_connected(timeout=10)
        id = (await ask("command", "run", "acme", "reload", "--all", "--arg", "page=7"))["id"]
        await ask("device", "config", "set", "acme", "--all", "volume=3")
        await asyncio.wait_for(configured.wait(), 10)
        async with asyncio.timeout(10):
            while not (now := await ask("command", "show", id))["done"]:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
    assert [one["output"] for one in now["results"]] == ["page 7"]


# -- what a device promises, without a network -------------------------------------------------------------------------


class Bench:
    """A fleet whose handlers run at once, or, while it is `held`, never: as if the power went in the middle."""

    def __init__(self, path: Path) -> None:
        self.said: list[tuple[str, Any]] = []
        self.held = False
        self.memory = Memory(path)
        self.fleet = Fleet(
            Place("acme", "kiosk-7"),
            self.memory,
            perform=self._perform,
            say=lambda kind, payload: self.said.append((kind, json.loads(payload))),
        )

    def _perform(self, begin: Callable[[], None], work: Callable[[], Any], done: Callable[..., object]) -> None:
        begin()
        if self.held:
            return
        try:
            output = work()
        except Exception as error:  # noqa: BLE001 - as the faces do
            done(None, error)
        else:
            done(output, None)

    def command(self, id: str, name: str = "reload", expires_at: str = "2099-01-01T00:00:00Z") -> None:
        command = {"command_id": id, "name": name, "args": {"n": "1"}, "expires_at": expires_at}
        self.raw(json.dumps(command).encode())

    def raw(self, payload: bytes) -> None:
        assert self.fleet.arrived("acme/device/kiosk-7/command", payload)

    def desired(self, version: object, **config: str) -> None:
        payload = json.dumps({"version": version, "config": config}).encode()
        assert self.fleet.arrived("acme/device/kiosk-7/desired", payload)


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    benches: list[Bench] = []

    def boot() -> Bench:
        if benches:
            benches[-1].memory.close()
        benches.append(Bench(tmp_path / "memory.db"))
        return benches[-1]

    yield boot
    benches[-1].memory.close()


def test_a_command_that_comes_twice_is_done_once_restarts_included(boot: Callable[[], Bench]) -> None:
    done: list[dict[str, str]] = []
    for _ in range(2):
        bench = boot()
        bench.fleet.on_command("reload", done.append)
        bench.fleet.start()
        bench.command("c1")
        bench.command("c1")
    assert done == [{"n": "1"}]


def test_one_that_was_begun_when_the_power_went_has_failed(boot: Callable[[], Bench]) -> None:
    bench = boot()
    bench.fleet.on_command("reload", pytest.fail)
    bench.held = True
    bench.command("c1")
    bench.command("c2")  # not begun yet
    done: list[dict[str, str]] = []
    bench = boot()
    bench.fleet.on_command("reload", done.append)
    bench.fleet.start()
    assert [(said["command_id"], said["ok"], said["error"]) for _, said in bench.said] == [
        ("c1", False, "the device stopped while it did this"),
        ("c2", True, ""),
    ]
    assert len(done) == 1


def test_what_cannot_be_done_is_answered(boot: Callable[[], Bench]) -> None:
    bench = boot()
    bench.fleet.on_command("reload", lambda _: "x" * 5000)
    bench.command("c1", expires_at="2020-01-01T00:00:00Z")
    bench.command("c2", expires_at="never")
    bench.raw(b'{"command_id": "c3"}')
    bench.command("c4")
    bench.raw(b"\xff")
    bench.raw(b"[]")
    bench.raw(b'{"command_id": 7}')
    bench.raw(b"[" * 100_000)
    assert [(said["command_id"], said["ok"]) for _, said in bench.said] == [
        ("c1", False), ("c2", False), ("c3", False), ("c4", True)
    ]  # fmt: skip
    assert len(bench.said[-1][1]["output"]) == 1000


def test_a_configuration_is_reported_once_and_handed_over_at_each_start(boot: Callable[[], Bench]) -> None:
    handed: list[dict[str, str]] = []
    bench = boot()
    bench.fleet.on_config(handed.append)
    bench.desired(1, volume="3")
    bench.desired(1, volume="3")
    assert bench.said == [("reported", {"version": 1, "config": {"volume": "3"}, "error": ""})]
    for bad in (None, True, "2"):
        bench.desired(bad, volume="9")
    bench = boot()
    bench.fleet.on_config(handed.append)
    bench.fleet.start()
    assert (bench.said, handed) == ([], [{"volume": "3"}, {"volume": "3"}])


def test_a_configuration_that_failed_is_tried_again_at_the_next_start(boot: Callable[[], Bench]) -> None:
    def loud(_: dict[str, str]) -> None:
        raise ValueError("too loud")

    bench = boot()
    bench.fleet.on_config(loud)
    bench.desired(1, volume="11")
    assert bench.said == [("reported", {"version": 1, "config": {}, "error": "too loud"})]
    bench = boot()
    bench.fleet.on_config(lambda _: None)
    bench.fleet.start()
    assert bench.said == [("reported", {"version": 1, "config": {"volume": "11"}, "error": ""})]
