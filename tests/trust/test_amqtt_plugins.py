"""amqtt's own plugins, unmodified, on a live broker: files, HTTP, a database, JWT; and what bad ones cannot do."""

import asyncio
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import jwt
import pytest
import structlog
from aiohttp import web
from amqtt.contrib.auth_db.managers import TopicManager, UserManager
from pwdlib.hashers.argon2 import Argon2Hasher
from support.amqtt_plugins import Life, Topics
from support.engine import until
from support.live import device, populate, port, running, server
from support.mqtt import Client

from broker.app import Broker
from broker.config import load
from broker.errors import Failed, Misconfigured
from broker.trust import amqtt_plugins
from broker.trust.amqtt_plugins import samples
from broker.wire.packets import Puback, Publish, Will

DENIED = 0x87
WRONG = 0x86
UNAVAILABLE = 0x88

# `pushbroker serve` that is stopped while a plugin is asked, and does not wait for it for as long as it may.
_WAITS = """
import os, signal, sys, threading
from broker.command import main
from broker.trust import amqtt_plugins
from support.amqtt_plugins import Waits

amqtt_plugins.PLUGIN_ANSWER_S = 0.2

async def started(self):
    import asyncio
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()

Waits.on_broker_post_start = started
sys.argv = ["pushbroker", "serve", "--data", sys.argv[1], "--listen", "mqtt://127.0.0.1:0"]
main()
"""

EVERYBODY = {"support.amqtt_plugins.Everybody": {}}
SCRIPTED = {**EVERYBODY, "support.amqtt_plugins.Topics": {}}


@pytest.fixture(autouse=True)
def plugins_begin_anew() -> None:
    Topics.reset()
    Life.told.clear()
    Life.threads.clear()
    Life.sessions.clear()


async def guest(broker: Broker, name: str | None = "ada", password: str | None = "secret", **fields: Any) -> Client:
    secret = None if password is None else password.encode()
    return await Client.connected(port(broker), fields.pop("client_id", "c1"), username=name, password=secret, **fields)


async def may_publish(client: Client, topic: str) -> bool:
    answer = await client.publish(topic, b"x", qos=1)
    assert answer is not None
    assert answer.reason in (0, 0x10, DENIED)
    return answer.reason != DENIED


async def may_subscribe(client: Client, filter: str) -> bool:
    reasons = (await client.subscribe(filter)).reasons
    assert reasons in ([0], [DENIED])
    return reasons == [0]


# -- amqtt's plugins ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The 'acl' option:DeprecationWarning")  # amqtt 0.12.1 takes no other
async def test_the_file_plugin_and_the_access_list(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"# tills\nada:{Argon2Hasher().hash('secret')}\nbob:{Argon2Hasher().hash('other')}\n")
    plugins = {
        "amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(passwords)},
        "amqtt.plugins.topic_checking.TopicAccessControlListPlugin": {
            "publish_acl": {"ada": ["shop/ada/#"]},
            "acl": {"ada": ["shop/news/+"], "bob": ["shop/#"]},
        },
    }
    async with running(tmp_path / "data", amqtt_plugins=plugins, amqtt_topics=("shop/#",)) as broker:
        for name, password in (("ada", "other"), ("eve", "secret"), ("ada", None), (None, None)):
            await guest(broker, name, password, reason=WRONG)
        ada = await guest(broker)
        bob = await guest(broker, "bob", "other", client_id="c2", version=4)
        assert await may_subscribe(ada, "shop/news/today")
        assert await may_subscribe(ada, "shop/news/+")
        # amqtt's list takes `+` for `#`, and would give away what is deeper.
        assert not await may_subscribe(ada, "shop/news/#")
        assert not await may_subscribe(ada, "shop/secret")
        assert (await bob.subscribe("shop/#")).reasons == [0]
        assert await may_publish(ada, "shop/ada/x")
        assert (await bob.expect_message(b"x")).topic == b"shop/ada/x"
        assert not await may_publish(ada, "shop/bob/x")
        assert not await may_publish(ada, "elsewhere/ada/x")
        assert [c["identity"] for c in broker.connections()] == ["guest:ada", "guest:bob"]


class Directory:
    """An HTTP server that amqtt's HTTP plugins ask."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {"ada": "secret"}
        self.topics: set[tuple[str, int]] = set()
        self.asked: list[dict[str, Any]] = []
        self.port = 0

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text="<h1>It works!</h1>", content_type="text/html")

    async def user(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"ok": self.users.get(body["username"]) == body["password"]})

    async def acl(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        return web.Response(status=200 if (body["topic"], body["acc"]) in self.topics else 403)


@pytest.fixture
async def directory() -> AsyncIterator[Directory]:
    found, app = Directory(), web.Application()
    app.add_routes([web.post("/user", found.user), web.post("/acl", found.acl), web.get("/user", found.page)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


def http(directory: Directory) -> dict[str, dict[str, Any]]:
    where = {"host": "127.0.0.1", "port": directory.port, "request_method": "post"}
    return {
        "amqtt.contrib.http.UserAuthHttpPlugin": where,
        "amqtt.contrib.http.TopicAuthHttpPlugin": {**where, "response_mode": "status"},
    }


async def test_the_http_plugins_are_asked_once_and_again_after_a_minute(tmp_path: Path, directory: Directory) -> None:
    directory.topics |= {("shop/a", 2), ("shop/a", 4), ("shop/a", 1), ("shop/b", 4)}
    async with running(tmp_path, amqtt_plugins=http(directory), amqtt_topics=("#",)) as broker:
        await guest(broker, password="wrong", reason=WRONG)
        ada = await guest(broker)
        assert await may_subscribe(ada, "shop/a")
        assert not await may_subscribe(ada, "shop/b")  # it may subscribe, and not receive
        for _ in range(5):
            await ada.publish("shop/a", b"x")
            await ada.expect_message(b"x")
            await ada.publish("shop/c", b"x")
        await ada.silent()
        assert [(body["topic"], body["acc"]) for body in directory.asked] == [
            ("shop/a", 4), ("shop/a", 1), ("shop/b", 4), ("shop/b", 1), ("shop/a", 2), ("shop/c", 2),
        ]  # fmt: skip
        assert {(body["username"], body["client_id"]) for body in directory.asked} == {("ada", "c1")}
        assert broker.status()["counters"]["plugin_questions"] == 2 + 4

        directory.topics.remove(("shop/a", 2))
        directory.asked.clear()
        broker.core.wheel.advance(broker.core.now + 62)
        await ada.publish("shop/a", b"too late")
        await ada.silent()
        assert [(body["topic"], body["acc"]) for body in directory.asked] == [("shop/a", 2)]


async def test_an_http_server_that_is_gone(tmp_path: Path, directory: Directory) -> None:
    directory.topics |= {("shop/a", 2)}
    plugins = http(directory)
    plugins["amqtt.contrib.http.TopicAuthHttpPlugin"]["port"] = 1  # nothing listens there
    async with running(tmp_path, amqtt_plugins=plugins, amqtt_topics=("#",)) as broker:
        ada = await guest(broker)
        assert not await may_publish(ada, "shop/a")
        assert broker.core.counters.plugin_failures == 1


async def test_the_database_plugins(tmp_path: Path) -> None:
    connection = f"sqlite+aiosqlite:///{tmp_path / 'users.db'}"
    plugins = {
        "amqtt.contrib.auth_db.plugin.UserAuthDBPlugin": {"connection": connection, "sync_schema": True},
        "amqtt.contrib.auth_db.plugin.TopicAuthDBPlugin": {"connection": connection, "sync_schema": True},
    }
    async with running(tmp_path / "data", amqtt_plugins=plugins, amqtt_topics=("shop/#",)) as broker:
        async with UserManager(connection) as users, TopicManager(connection) as topics:
            await users.create_user_auth("ada", "secret")
            await topics.create_topic_auth("ada")
            await topics.add_allowed_topic("ada", "shop/ada/#", "publish")
            for action in ("subscribe", "receive"):
                await topics.add_allowed_topic("ada", "shop/news/#", action)
        await guest(broker, password="wrong", reason=WRONG)
        ada = await guest(broker)
        assert await may_publish(ada, "shop/ada/a/b")
        assert not await may_publish(ada, "shop/news/a")
        assert await may_subscribe(ada, "shop/news/#")
        assert await may_subscribe(ada, "shop/news/+/b")
        assert not await may_subscribe(ada, "shop/ada/#")
        assert not await may_subscribe(ada, "shop/#")


async def test_the_jwt_plugins(tmp_path: Path) -> None:
    key = "a key of at least thirty-two bytes, as HS256 wants it"
    claims = {"publish_claim": "pub", "subscribe_claim": "sub_to", "receive_claim": "get"}
    plugins = {
        "amqtt.contrib.jwt.UserAuthJwtPlugin": {"secret_key": key, "user_claim": "name"},
        "amqtt.contrib.jwt.TopicAuthJwtPlugin": {"secret_key": key, **claims},
    }
    told = {"name": "ada", "pub": ["shop/ada/+"], "sub_to": ["shop/#"], "get": ["shop/news/#"]}
    async with running(tmp_path, amqtt_plugins=plugins, amqtt_topics=("#",)) as broker:
        await guest(broker, password=jwt.encode(told, "another key of at least thirty-two bytes"), reason=WRONG)
        await guest(broker, "bob", password=jwt.encode(told, key), reason=WRONG)
        ada = await guest(broker, password=jwt.encode(told, key))
        assert await may_publish(ada, "shop/ada/a")
        assert not await may_publish(ada, "shop/ada/a/b")
        assert await may_subscribe(ada, "shop/news/#")
        assert not await may_subscribe(ada, "shop/#")  # more than it may receive


async def test_the_anonymous_plugin(tmp_path: Path) -> None:
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}, "support.amqtt_plugins.Topics": {}}
    async with running(tmp_path, amqtt_plugins=plugins, amqtt_topics=("shop/#",)) as broker:
        await populate(broker)
        anybody = await guest(broker, None, None)
        assert await may_publish(anybody, "shop/a")
        assert not await may_publish(anybody, "acme/user/ada")
        # Whoever it says that it is, it is not one of ours.
        for name in ("acme/device/till-3", "acme/server/crm", "enrol", "acme/device/till-3"):
            await guest(broker, name, "x", reason=WRONG)
        await guest(broker, "acme", "pbt_x", reason=WRONG)
        await guest(broker, "acme", "x")
        assert {c["identity"] for c in broker.connections()} == {"guest:", "guest:acme"}


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (True, True, 0), (True, None, 0), (None, True, 0), (True, False, WRONG), (False, True, WRONG),
        (None, None, WRONG), (False, None, WRONG),
    ],
)  # fmt: skip
async def test_all_who_have_an_opinion_must_say_yes(
    tmp_path: Path, one: bool | None, other: bool | None, reason: int
) -> None:
    says = {"Opinion": one, "Other": other}
    plugins = {f"support.amqtt_plugins.{name}": {} if said is None else {"says": said} for name, said in says.items()}
    async with running(tmp_path, amqtt_plugins=plugins) as broker:
        await guest(broker, reason=reason)


async def test_without_a_topic_plugin_nothing_is_allowed(tmp_path: Path) -> None:
    async with running(tmp_path, amqtt_plugins=EVERYBODY, amqtt_topics=("#",)) as broker:
        ada = await guest(broker)
        assert not await may_publish(ada, "shop/a")
        assert not await may_subscribe(ada, "shop/a")


async def test_from_a_file_as_amqtt_has_it(tmp_path: Path) -> None:
    (tmp_path / "pushbroker.toml").write_text(
        """
        listen = ["mqtt://127.0.0.1:0"]
        amqtt_topics = ["shop/#"]

        [amqtt_plugins."support.amqtt_plugins.Everybody"]

        [amqtt_plugins."amqtt.plugins.topic_checking.TopicAccessControlListPlugin"]
        publish_acl = { ada = ["shop/ada/#"] }
        """
    )
    loaded = load({"data": tmp_path}, environment={})
    async with running(
        tmp_path, **{name: getattr(loaded, name) for name in ("amqtt_plugins", "amqtt_topics")}
    ) as broker:
        ada = await guest(broker)
        assert await may_publish(ada, "shop/ada/a")
        assert not await may_publish(ada, "shop/b")


# -- who guests are ----------------------------------------------------------------------------------------------------


async def test_a_guest_is_nobody_else(tmp_path: Path) -> None:
    """Nothing that a guest calls itself reaches what belongs to one of ours, or to another guest."""
    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("#",)) as broker:
        await populate(broker)
        crm = await server(broker, client_id="c1")
        till = await device(broker, "till-3", "c1")
        for name in ("acme", "acme/admin/x", "admin/root", "acme/enrolling/kiosk-7", "", "till-3", "ada", "böb"):
            client = await guest(broker, name, reason=0 if name else WRONG)
            assert not client.connack.session_present
        for name in ("ada\nc1", "ada\x00"[:-1] + "\x1b[2J", "a" * 257):
            await guest(broker, name, reason=WRONG)
        await crm.silent()
        await till.silent()
        assert await may_publish(client, "acme/user/ada")  # the plugin says so, and `#` is open
        for topic in ("acme/receipts/m1", "acme/device/till-3/up/receipt", "$enrol/csr", "$SYS/x"):
            assert not await may_publish(client, topic)
        for filter in ("$enrol/certificate", "$enrol/#"):
            assert not await may_subscribe(client, filter)


async def test_no_brands_branch_is_open_unless_somebody_opens_it(tmp_path: Path) -> None:
    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("shop/#", "acme/topic/+")) as broker:
        await populate(broker)
        client = await guest(broker)
        for filter in ("#", "+/#", "+/user/ada", "acme/#", "acme/user/ada", "rival/topic/x", "$share/g/acme/#"):
            assert not await may_subscribe(client, filter)
        assert await may_subscribe(client, "acme/topic/news")
        for topic in ("rival/topic/x", "acme/user/ada", "acme/topic/a/b"):
            assert not await may_publish(client, topic)
        crm = await server(broker)
        await crm.publish("acme/topic/news", b"sale")
        await client.expect_message(b"sale")
        assert {topic.split("/")[0] for _, _, topic in Topics.asked} == {"acme"}


async def test_ours_need_no_plugin(tmp_path: Path) -> None:
    """Who has credentials of ours is asked for no others, and what a wrong one of ours says is not asked further."""
    plugins = {"support.amqtt_plugins.Life": {}}
    async with running(tmp_path, amqtt_plugins=plugins, amqtt_brands=("acme",)) as broker:
        await populate(broker)
        await broker.directory.password_set("acme", "device", "till-3", "long enough")  # type: ignore[arg-type]
        await guest(broker, "acme/device/till-3", "long enough")
        await guest(broker, "acme/device/till-3", "not that one", reason=WRONG)
        await guest(broker, "rival/device/till-3", "x", reason=WRONG)
        await guest(broker, "acme/server/crm", "x", reason=WRONG)
        await server(broker)
        assert "authenticate" not in Life.told


async def test_plugins_may_know_the_devices_of_a_brand_that_trusts_them(tmp_path: Path, directory: Directory) -> None:
    directory.users = {"acme/device/till-3": "secret", "acme/device/none": "secret", "rival/device/till-3": "secret"}
    plugins = {"amqtt.contrib.http.UserAuthHttpPlugin": http(directory)["amqtt.contrib.http.UserAuthHttpPlugin"]}
    async with running(tmp_path, amqtt_plugins=plugins, amqtt_brands=("acme",)) as broker:
        await populate(broker)
        till = await guest(broker, "acme/device/till-3")
        assert till.connack.properties.user_properties == [("user", "bob"), ("store", "roma")]
        assert await may_subscribe(till, "acme/user/bob")
        assert not await may_subscribe(till, "acme/user/ada")
        assert await may_publish(till, "acme/device/till-3/up/state")
        await guest(broker, "acme/device/till-3", "wrong", reason=WRONG)
        await guest(broker, "acme/device/none", reason=WRONG)
        await guest(broker, "rival/device/till-3", reason=WRONG)
        await broker.directory.device_revoke("acme", "till-3")
        await till.expect_end(DENIED)
        await guest(broker, "acme/device/till-3", reason=WRONG)


@pytest.mark.parametrize("known", [None, False, True])
@pytest.mark.parametrize("allow", [True, False])
async def test_who_lets_in_everybody_vouches_for_nobody(tmp_path: Path, allow: bool, known: bool | None) -> None:
    plugins: dict[str, dict[str, Any]] = {
        "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": allow},
        "support.amqtt_plugins.Opinion": {} if known is None else {"says": known},
    }
    async with running(tmp_path, amqtt_plugins=plugins, amqtt_brands=("acme",)) as broker:
        await populate(broker)
        await guest(broker, "acme/device/till-3", reason=0 if known else WRONG)


# -- sessions and time -------------------------------------------------------------------------------------------------


async def test_a_guests_session_waits_for_it_across_a_restart(tmp_path: Path) -> None:
    more = {"amqtt_plugins": SCRIPTED, "amqtt_topics": ("shop/#",)}
    async with running(tmp_path, **more) as broker:
        ada = await guest(broker, clean_start=False, version=4)
        await ada.subscribe("shop/a", qos=1)
        await ada.subscribe("shop/b", qos=1)
        await ada.disconnect()
        bob = await guest(broker, "bob", client_id="c2")
        assert await may_publish(bob, "shop/a")
    async with running(tmp_path, **more) as broker:
        Topics.reset(lambda action, topic: topic == "shop/a")
        stranger = await guest(broker, "eve", clean_start=False, version=4)
        assert not stranger.connack.session_present
        ada = await guest(broker, clean_start=False, version=4)
        assert ada.connack.session_present
        await ada.expect_message(b"x")
        # What it may not read any more is gone.
        session = next(s for s in broker.core.sessions.values() if s.identity.name == "ada")
        assert [s.name for s in session.subscriptions] == [b"shop/a"]
    async with running(tmp_path) as broker:
        assert broker.core.sessions == {}  # nobody could come for them


async def test_what_waits_by_a_group_that_is_lost_goes_to_another(tmp_path: Path) -> None:
    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("shop/#",)) as broker:
        ada = await guest(broker, clean_start=False, version=4)
        for filter in ("$share/g/shop/a", "$share/h/shop/a", "shop/b"):
            await ada.subscribe(filter, qos=1)
        await ada.disconnect()
        bob = await guest(broker, "bob", client_id="c2")
        for topic in ("shop/a", "shop/b"):
            await bob.publish(topic, b"x", qos=1)
        await bob.subscribe("$share/g/shop/a", qos=1)
        Topics.reset(lambda action, topic: topic != "shop/a")
        ada = await guest(broker, clean_start=False, version=4)
        assert ada.connack.session_present
        assert (await ada.expect_message(b"x")).topic == b"shop/b"
        await ada.silent()
        assert (await bob.expect_message(b"x")).topic == b"shop/a"
        await bob.silent()
        # Nobody else was in the other group.
        assert broker.core.counters.messages_dropped_session_end == 1
        await until(lambda: broker.core.log.messages == 0)


async def test_nothing_is_lost_because_a_plugin_fails(tmp_path: Path) -> None:
    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("shop/#",)) as broker:
        ada = await guest(broker, clean_start=False, version=4)
        await ada.subscribe("shop/a", qos=1)
        await ada.disconnect()

        def fails(action: str, topic: str) -> bool:
            raise OSError("the directory is down")

        Topics.reset(fails)
        await guest(broker, clean_start=False, version=5, reason=UNAVAILABLE)
        Topics.reset()
        ada = await guest(broker, clean_start=False, version=4)
        assert ada.connack.session_present
        assert broker.core.router.subscriptions == 1


async def test_a_will_is_asked_about(tmp_path: Path) -> None:
    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("shop/#",)) as broker:
        Topics.reset(lambda action, topic: topic == "shop/gone" or action != "publish")
        await guest(broker, will=Will(b"shop/other", b"x"), reason=DENIED)
        await guest(broker, will=Will(b"elsewhere", b"x"), reason=DENIED)
        other = await guest(broker, "bob", client_id="c2")
        await other.subscribe("shop/#")
        ada = await guest(broker, will=Will(b"shop/gone", b"x"))
        await ada.close()
        await other.expect_message(b"x")


async def test_a_guest_is_looked_at_again_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, amqtt_plugins=SCRIPTED) as broker:
        ada = await guest(broker)
        for ahead in (86300, 86500):
            channel = next(iter(broker.core.sessions.values())).channel
            assert channel is not None
            channel.keep_alive_s = 0
            broker.core.wheel.advance(broker.core.now + ahead)
        await ada.expect_end(0xA0)


# -- plugins that behave badly -----------------------------------------------------------------------------------------


async def test_a_plugin_that_hangs(tmp_path: Path) -> None:
    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("#",)) as broker:
        Topics.reset(lambda action, topic: asyncio.Event().wait() if topic == "hang" else True)
        ada = await guest(broker)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(amqtt_plugins, "PLUGIN_ANSWER_S", 0.05)
            assert not await may_publish(ada, "hang")
            assert not await may_subscribe(ada, "hang")
        assert await may_publish(ada, "shop")
        counters = broker.core.counters
        assert (counters.plugin_timeouts, counters.plugin_failures) == (2, 0)


async def test_a_plugin_that_blocks_holds_up_nobody_else(tmp_path: Path) -> None:
    blocked, go = threading.Event(), threading.Event()

    def blocks(action: str, topic: str) -> bool:
        blocked.set()
        return go.wait(10)

    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("#",), allow_anonymous=True) as broker:
        Topics.reset(blocks)
        ada, patch = await guest(broker), pytest.MonkeyPatch()
        patch.setattr(amqtt_plugins, "PLUGIN_ANSWER_S", 0.2)
        try:
            await ada.send(Publish(b"shop/a", b"x", 1, packet_id=1))
            await until(blocked.is_set)
            one, two = await Client.connected(port(broker), "one"), await Client.connected(port(broker), "two")
            await two.subscribe("open/#")
            for _ in range(20):
                await one.publish("open/a", b"y")
                await two.expect_message(b"y")
            await guest(broker, "bob", client_id="c2", reason=UNAVAILABLE)
        finally:
            go.set()
            patch.undo()
        assert (await ada.receive()).reason == DENIED  # type: ignore[union-attr]
        await until(lambda: broker.gate.plugins._places._value == 64)  # type: ignore[union-attr]
        assert await may_publish(ada, "shop/a")
        assert broker.core.counters.plugin_timeouts == 2


async def test_a_plugin_that_raises(tmp_path: Path) -> None:
    logged: list[tuple[str, str]] = []
    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("#",)) as broker:
        broker.gate.plugins._log = lambda event, **fields: logged.append((event, fields["plugin"]))  # type: ignore[union-attr]
        for error in (OSError("the disk"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()):

            def raises(action: str, topic: str, error: BaseException = error) -> bool:
                raise error

            Topics.reset(raises)
            ada = await guest(broker)
            assert not await may_publish(ada, "shop/a")
        assert broker.core.counters.plugin_failures == 4
        assert logged == [("amqtt plugin failed", "support.amqtt_plugins.Topics")] * 4
        Topics.reset()
        assert await may_publish(ada, "shop/a")


async def test_a_plugin_that_is_asked_in_vain(tmp_path: Path) -> None:
    """One that does not take the question has failed, and not the broker."""
    plugins = {**EVERYBODY, "support.amqtt_plugins.Outdated": {}}
    async with running(tmp_path, amqtt_plugins=plugins, amqtt_topics=("#",)) as broker:
        ada = await guest(broker)
        assert not await may_publish(ada, "shop/a")
        assert broker.core.counters.plugin_failures == 1


@pytest.mark.parametrize("password", ["hush-hush", "h\u00fcsh & hush+'%"])
async def test_what_a_plugin_raises_tells_no_password(tmp_path: Path, directory: Directory, password: str) -> None:
    """aiohttp names the URL that was not answered in JSON, and the password is in it."""
    where = {"host": "127.0.0.1", "port": directory.port, "params_mode": "form"}
    logged: list[BaseException] = []
    async with running(tmp_path, amqtt_plugins={"amqtt.contrib.http.UserAuthHttpPlugin": where}) as broker:
        broker.gate.plugins._log = lambda event, **fields: logged.append(fields["exc_info"])  # type: ignore[union-attr]
        await guest(broker, password=password, reason=UNAVAILABLE)
    told = unquote_plus("".join(traceback.format_exception(logged[0])))
    assert "ContentTypeError" in told
    assert "_send_request" in told
    assert "hush" not in told


async def test_a_plugin_gets_no_broker_to_use(tmp_path: Path) -> None:
    async with running(tmp_path, amqtt_plugins={"support.amqtt_plugins.Peeks": {}}) as broker:
        await guest(broker, reason=UNAVAILABLE)
        assert broker.core.counters.plugin_failures == 1


async def test_a_flood_of_questions_is_bounded(tmp_path: Path) -> None:
    """However many clients wait, the plugins are asked so much at a time."""
    under_way, most = 0, 0

    async def slow(topic: str) -> bool:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return True

    Topics.reset(lambda action, topic: slow(topic))
    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("#",)) as broker:
        clients = [await guest(broker, f"user{number}") for number in range(100)]
        for client in clients:
            await client.send(*(Publish(b"shop/%d" % number, b"x", 1, packet_id=number + 1) for number in range(5)))
        for client in clients:
            for number in range(5):
                assert (await client.receive()).packet_id == number + 1  # type: ignore[union-attr]
        assert 1 < most <= 64
        assert broker.core.counters.plugin_questions == 100 + 500


async def test_who_asks_too_much_waits_for_itself(tmp_path: Path) -> None:
    """Many connections of one user name do not take the places of another's."""
    answer: Future[bool] = Future()

    async def slow() -> bool:
        return await asyncio.shield(asyncio.wrap_future(answer))

    Topics.reset(lambda action, topic: slow() if topic == "slow" else True)
    async with running(tmp_path, amqtt_plugins=SCRIPTED, amqtt_topics=("#",)) as broker:
        crowd = [await guest(broker, client_id=f"c{number}") for number in range(70)]
        for client in crowd:
            await client.send(Publish(b"slow", b"x", 1, packet_id=1))
        await until(lambda: len(Topics.asked) == 16)
        bob = await guest(broker, "bob", client_id="b")
        assert await may_publish(bob, "shop/a")
        answer.set_result(True)
        for client in crowd:
            assert (await client.expect(Puback)).reason in (0, 0x10)
        assert broker.core.counters.plugin_timeouts == 0


# -- starting and stopping ---------------------------------------------------------------------------------------------


async def test_the_life_of_plugins(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(tmp_path, amqtt_plugins={"support.amqtt_plugins.Life": {}}) as broker:
            await guest(broker, "ada", "secret", client_id="till")
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry.get("handler") for entry in warnings] == [
        None, "support.amqtt_plugins.Life.on_broker_client_connected",
    ]  # fmt: skip
    assert "may neither publish nor subscribe" in warnings[0]["event"]
    assert "amqtt_topics" in warnings[0]["remedy"]
    assert Life.told == [
        "made", "pre_start", "post_start", "authenticate", "pre_shutdown", "close", "post_shutdown",
    ]  # fmt: skip
    assert Life.threads == {"amqtt-plugins"}
    assert not any(thread.name == "amqtt-plugins" for thread in threading.enumerate())
    session = Life.sessions[0]
    assert (session.username, session.password, session.client_id) == ("ada", "secret", "till")
    assert session.remote_address == "127.0.0.1"
    assert isinstance(session.remote_port, int)
    assert session.transitions.is_connected()


async def test_a_plugin_that_does_not_close_is_left_behind(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs() as logs:
        async with running(tmp_path, amqtt_plugins={"support.amqtt_plugins.Clings": {}}):
            patch.setattr(amqtt_plugins, "PLUGIN_ANSWER_S", 0.05)
    said = [entry for entry in logs if entry["event"] == "amqtt plugin does not close"]
    assert [entry["plugin"] for entry in said] == ["support.amqtt_plugins.Clings"]


@pytest.mark.parametrize(
    ("plugins", "said", "remedy"),
    [
        ({"amqtt.plugins.authentication.FileAuth": {}}, "FileAuth cannot be imported", "name is right"),
        ({"nowhere.Plugin": {}}, "No module named 'nowhere'", "name is right"),
        ({"amqtt.contrib.ldap.UserAuthLdapPlugin": {}}, "No module named 'ldap'", "pip install 'amqtt[contrib]'"),
        ({"amqtt": {"plugins": {}}}, "no full name", '[amqtt_plugins."amqtt.'),
        ({"support.amqtt_plugins.Listens": {}}, "neither an authentication nor a topic plugin", "take the others out"),
        ({"support.amqtt_plugins.broken": {}}, "neither an authentication nor a topic plugin", ""),
        ({"amqtt.plugins.sys.broker.BrokerSysPlugin": {}}, "neither an authentication", ""),
        ({"support.amqtt_plugins.NotAsync": {}}, "authenticate is no coroutine", "async def"),
        ({"support.amqtt_plugins.Unready": {"where": "init"}}, "no such directory server", "take it out"),
        ({"support.amqtt_plugins.Unready": {}}, "on_broker_pre_start: OSError: no such table", "take it out"),
        ({"support.amqtt_plugins.Unready": {"where": "hang"}}, "did not start within 0.1 s", "answers"),
        ({"support.amqtt_plugins.Secretive": {}}, "the option secret is missing", "Set it in"),
        ({"support.amqtt_plugins.Secretive": {"secret": 5}}, "the option secret is of the wrong kind", ""),
        ({"support.amqtt_plugins.Secretive": {"secert": "hush"}}, "has no option secert", "secret, port, many"),
        ({"amqtt.contrib.http.UserAuthHttpPlugin": {"host": "h", "port": 1, "request_method": "dig"}}, "dig", ""),
        ({"support.amqtt_plugins.Topics": {}}, "lets clients in", "AnonymousAuthPlugin"),
        (
            {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": "/nowhere"}},
            "Password file '/nowhere' not found",
            "",
        ),
    ],
    ids=str,
)
async def test_no_start_without_a_plugin_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: dict[str, dict[str, Any]], said: str, remedy: str
) -> None:
    monkeypatch.setattr(amqtt_plugins, "PLUGIN_START_S", 0.1 if "hang" in str(plugins) else 10)
    with pytest.raises(Failed) as raised:
        async with running(tmp_path, amqtt_plugins=plugins):
            pass
    assert said in raised.value.message
    assert remedy in raised.value.remedy
    assert raised.value.remedy
    # Another start would end the same way, and the unit does not try; a service that is away may come back.
    away = ("no such", "did not start", "not found")
    assert isinstance(raised.value, Misconfigured) is not any(word in said for word in away)
    assert "hush" not in raised.value.message
    assert not any(thread.name == "amqtt-plugins" for thread in threading.enumerate())


@pytest.mark.parametrize("how", ["exit", "interrupt", "cancel"])
@pytest.mark.parametrize("where", ["init", "start"])
async def test_a_plugin_that_quits_when_it_starts(tmp_path: Path, where: str, how: str) -> None:
    with pytest.raises(Failed, match=r"support\.amqtt_plugins\.Quits .*(SystemExit|KeyboardInterrupt|CancelledError)"):
        async with running(tmp_path, amqtt_plugins={"support.amqtt_plugins.Quits": {"where": where, "how": how}}):
            pass
    assert not any(thread.name == "amqtt-plugins" for thread in threading.enumerate())


@pytest.mark.parametrize("how", ["exit", "interrupt", "cancel"])
@pytest.mark.parametrize("where", ["task", "close"])
async def test_a_plugin_that_quits_later(tmp_path: Path, where: str, how: str) -> None:
    """It does not take the thread with it: the next is let in, and the broker stops."""
    async with running(tmp_path, amqtt_plugins={"support.amqtt_plugins.Quits": {"where": where, "how": how}}) as broker:
        for name in ("ada", "bob"):
            await guest(broker, name)
    assert not any(thread.name == "amqtt-plugins" for thread in threading.enumerate())


def test_a_broker_ends_though_a_plugins_thread_does_not(tmp_path: Path) -> None:
    (tmp_path / "pushbroker.toml").write_text('[amqtt_plugins."support.amqtt_plugins.Waits"]')
    ended = subprocess.run(
        [sys.executable, "-c", _WAITS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "the thread of the amqtt plugins does not end" in ended.stderr
    assert "stopped" in ended.stderr


async def test_no_start_without_amqtt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "amqtt.broker", None)
    with pytest.raises(Failed, match="amqtt cannot be imported") as raised:
        async with running(tmp_path, amqtt_plugins=EVERYBODY):
            pass
    assert "pip install 'pushbroker[amqtt]'" in raised.value.remedy


@pytest.mark.parametrize("filter", ["", "a/#/b", "$SYS/#"])
async def test_what_is_opened_must_be_filters(tmp_path: Path, filter: str) -> None:
    with pytest.raises(Misconfigured, match="amqtt_topics"):
        async with running(tmp_path, amqtt_topics=(filter,)):
            pass


@pytest.mark.parametrize(
    ("filter", "topics"),
    [
        ("a/b", ["a/b"]),
        ("a/+/c", ["a/P/c"]),
        ("+/+", ["P/P"]),
        ("#", ["P", "/".join(["P"] * 32)]),
        ("a/+/#", ["a/P/P", "/".join(["a", *["P"] * 31])]),
    ],
)
def test_what_a_wildcard_is_tried_with(filter: str, topics: list[str]) -> None:
    probe = amqtt_plugins._PROBE
    assert samples(filter) == [topic.replace("P", probe) for topic in topics]
