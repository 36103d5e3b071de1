"""amqtt's authentication and topic plugins, run as they are: nobody who has one for LDAP or a database rewrites it.

They live on an event loop in a thread of their own, so one that blocks holds up nobody but those who wait for plugins.
Questions go there a bounded number at a time, and each has an answer in time: who gets none is refused.

    the broker's loop                       the plugins' thread
    question ──── call_soon_threadsafe ───► task: each plugin in the order of the configuration
    answer  ◄──── call_soon_threadsafe ──── yes, no, or what went wrong

A question that was given up keeps its place until its task is really over: what a stuck thread has to do does not grow.
"""

import asyncio
import functools
import logging
import secrets
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext, suppress
from enum import Enum
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import unquote, unquote_plus
from weakref import WeakValueDictionary

from broker.counters import Counters
from broker.errors import Failed, Misconfigured
from broker.limits import (
    PLUGIN_ANSWER_S,
    PLUGIN_QUESTIONS_MAX,
    PLUGIN_QUESTIONS_OF_ONE_MAX,
    PLUGIN_START_S,
    TOPIC_LEVELS_MAX,
)

if TYPE_CHECKING:
    from amqtt.session import Session  # type: ignore[import-untyped]

    from broker.trust.gate import Presented

T = TypeVar("T")
_Work = Callable[["_Question"], Coroutine[Any, Any, T]]

# A topic level that stands in nobody's list of topics: what a wildcard of a filter gives away is tried with it.
_PROBE: Final = f"probe-{secrets.token_hex(4)}"
_START: Final = ("on_broker_pre_start", "on_broker_post_start")
_STOP: Final = ("on_broker_pre_shutdown", "close", "on_broker_post_shutdown")


class _Loaded(NamedTuple):
    name: str
    plugin: Any
    authenticates: bool
    decides_topics: bool
    credulous: bool  # amqtt's anonymous plugin, which believes everybody


class _Broken(Exception):
    """A plugin raised something instead of answering; its name."""


class _Question:
    """One on its way. `asking` is the plugin whose turn it is."""

    __slots__ = ("answer", "asking", "over", "task", "work")

    def __init__(self, work: _Work[Any], answer: "asyncio.Future[Any]") -> None:
        self.work = work
        self.answer = answer
        self.asking = ""
        self.over = False
        self.task: asyncio.Task[Any]  # once the thread has begun with it


class Plugins:
    """The plugins of the configuration: `start`, then ask, then `stop`.

    configured: a plugin's options by its full name, as amqtt has them. log: what an operator should see.
    """

    def __init__(
        self, configured: Mapping[str, Mapping[str, Any]], *, counters: Counters, log: Callable[..., object]
    ) -> None:
        self._configured = configured
        self._counters = counters
        self._log = log
        self._loaded: list[_Loaded] = []
        self._places = asyncio.Semaphore(PLUGIN_QUESTIONS_MAX)
        # Of each user name that somebody asks for at the moment.
        self._turns = WeakValueDictionary[str, asyncio.Semaphore]()
        self._main: asyncio.AbstractEventLoop
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._over: asyncio.Future[None]
        self._thread: threading.Thread

    # -- the life of the thread ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load all plugins and let them open what they need. Raises `Failed`, with all undone, if one cannot."""
        self._main = asyncio.get_running_loop()
        ready, self._over = self._main.create_future(), self._main.create_future()
        self._thread = threading.Thread(target=self._live, args=(ready,), name="amqtt-plugins", daemon=True)
        self._thread.start()
        await ready
        try:
            await self._ask(self._load, PLUGIN_START_S)
        except TimeoutError as error:
            await self.stop()
            raise Failed(
                f"{error} did not start within {PLUGIN_START_S} s",
                remedy="See whether what it connects to answers, or take it out of the configuration.",
            ) from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let the plugins close what they have open, and end the thread; leave it behind if it does not end."""
        try:
            for error in await self._ask(self._close, PLUGIN_ANSWER_S):
                self._log(error.message)
        except TimeoutError as error:
            self._log("amqtt plugin does not close", plugin=str(error))
        self._loop.call_soon_threadsafe(self._end.set)
        try:
            async with asyncio.timeout(PLUGIN_ANSWER_S):
                await self._over
        except TimeoutError:
            self._log("the thread of the amqtt plugins does not end")
        else:
            self._thread.join()  # it has done its last work

    def _live(self, ready: "asyncio.Future[None]") -> None:
        async def live() -> None:
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            self._back(ready, None)
            await self._end.wait()

        with asyncio.Runner() as runner:
            life = runner.get_loop().create_task(live())
            while not life.done():
                # What a plugin's own task raises to end a program ends the loop; it goes on.
                with suppress(SystemExit, KeyboardInterrupt):
                    runner.get_loop().run_until_complete(life)
        self._back(self._over, None)

    def _back(self, future: "asyncio.Future[T]", result: T) -> None:
        """From the thread: settle a future of the broker's loop, if that is still there."""
        with suppress(RuntimeError):
            self._main.call_soon_threadsafe(_settle, future, result)

    async def _load(self, question: _Question) -> None:
        for name, options in self._configured.items():
            question.asking = name
            try:
                self._loaded.append(_load(name, options, self._loop))
            except Failed:
                raise
            except BaseException as error:
                raise _failed(name, "cannot be loaded", error) from error
        for errors in [await self._tell(event, question) for event in _START]:
            if errors:
                raise errors[0]

    async def _close(self, question: _Question) -> list[Failed]:
        return [error for event in _STOP for error in await self._tell(event, question)]

    async def _tell(self, event: str, question: _Question) -> list[Failed]:
        """Call what plugins have for an event of the broker's life."""
        errors = []
        for loaded in self._loaded:
            if hasattr(loaded.plugin, event):
                try:
                    await _answer_of(loaded, question, getattr(loaded.plugin, event))
                except _Broken as error:  # the others are told
                    errors.append(_failed(loaded.name, f"failed in its {event}", error.__cause__ or error))
        return errors

    # -- what there is -------------------------------------------------------------------------------------------------

    @property
    def authenticates(self) -> bool:
        """Whether one of them lets clients in."""
        return any(loaded.authenticates for loaded in self._loaded)

    @property
    def decides_topics(self) -> bool:
        """Whether one of them says what clients may do."""
        return any(loaded.decides_topics for loaded in self._loaded)

    def never_called(self) -> list[str]:
        """The handlers of theirs that nothing here calls: for what clients do, and for packets."""
        return sorted(
            f"{loaded.name}.{name}"
            for loaded in self._loaded
            for name in dir(loaded.plugin)
            if name.startswith(("on_broker_", "on_mqtt_")) and name not in (*_START, *_STOP)
        )

    # -- questions -----------------------------------------------------------------------------------------------------

    async def authenticate(self, presented: "Presented") -> "Session | None":
        """What amqtt calls the client's session if they let it in, else None. Raises `Failed` if they do not answer.

        As in amqtt, all who have an opinion must say yes, and one at least. The session is `proven` if one of these is
        more than amqtt's anonymous plugin.
        """
        try:
            session = _session(presented)
        except UnicodeDecodeError:
            return None  # amqtt has passwords that are text only

        async def work(question: _Question) -> bool:
            opinions = []
            for loaded in self._loaded:
                if loaded.authenticates:
                    opinion = await _answer_of(loaded, question, loaded.plugin.authenticate, session=session)
                    if opinion is not None:
                        opinions.append(opinion)
                        session.proven |= bool(opinion) and not loaded.credulous
            return bool(opinions) and all(opinions)

        return session if await self._answered(work, session) else None

    async def allowed(
        self, session: "Session", action: Literal["publish", "subscribe"], names: Sequence[str]
    ) -> list[bool | None]:
        """For each of `names` whether they allow the action on it; None where they do not answer.

        As in amqtt, all must say yes. Receiving is asked here and now, once, and not for each message; so for what the
        wildcards of a filter stand for made-up topics are tried, for subscribing and for receiving.
        """
        turn = self._turns.setdefault(session.username or "", asyncio.Semaphore(PLUGIN_QUESTIONS_OF_ONE_MAX))
        verdicts: list[bool | None] = []
        with suppress(Failed):  # counted and logged; what is left of the names would hardly fare better
            for name in names:
                questions = [("publish", name)]
                if action == "subscribe":
                    tried = samples(name)
                    both = [(what, topic) for topic in tried for what in ("subscribe", "receive")]
                    questions = both if tried == [name] else [("subscribe", name), *both]
                verdicts.append(
                    await self._answered(functools.partial(self._decide, session, questions), session, turn)
                )
        return [*verdicts, *[None] * (len(names) - len(verdicts))]

    async def _decide(self, session: "Session", questions: Sequence[tuple[str, str]], question: _Question) -> bool:
        from amqtt.contexts import Action  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra

        deciding = [loaded for loaded in self._loaded if loaded.decides_topics]
        for action, topic in questions:
            for loaded in deciding:
                asked = {"session": session, "topic": topic, "action": Action(action)}
                if not await _answer_of(loaded, question, loaded.plugin.topic_filtering, **asked):
                    return False
        return bool(deciding)

    async def _answered(self, work: _Work[bool], about: "Session", turn: asyncio.Semaphore | None = None) -> bool:
        """Put one question to the plugins, in its turn. Raises `Failed`, counted and logged, without an answer."""
        self._counters.plugin_questions += 1
        try:
            return await self._ask(work, PLUGIN_ANSWER_S, turn)
        except TimeoutError as error:
            self._counters.plugin_timeouts += 1
            self._log("amqtt plugin does not answer", plugin=str(error), seconds=PLUGIN_ANSWER_S)
        except _Broken as error:
            self._counters.plugin_failures += 1
            self._log("amqtt plugin failed", plugin=str(error), exc_info=_discreet(error.__cause__, about.password))
        raise Failed("the amqtt plugins do not answer")

    async def _ask(self, work: _Work[T], within_s: float, turn: asyncio.Semaphore | None = None) -> T:
        """Have work done in the thread. Raises `TimeoutError` with the name of the plugin that takes too long."""
        question = _Question(work, self._main.create_future())
        sent = False
        try:
            async with asyncio.timeout(within_s), turn or nullcontext():
                await self._places.acquire()
                sent = True
                self._loop.call_soon_threadsafe(self._begin, question)
                return await question.answer  # type: ignore[no-any-return]
        except TimeoutError:
            raise TimeoutError(question.asking or "those asked before") from None
        finally:
            if sent and not question.over:
                self._loop.call_soon_threadsafe(self._give_up, question)

    def _begin(self, question: _Question) -> None:
        """In the thread."""
        question.task = self._loop.create_task(question.work(question))
        question.task.add_done_callback(lambda _: self._end_of(question))

    @staticmethod
    def _give_up(question: _Question) -> None:
        """In the thread, after `_begin`: nobody waits for it any more."""
        question.task.cancel()

    def _end_of(self, question: _Question) -> None:
        """In the thread: the task is over, whoever still waits for it."""
        with suppress(RuntimeError):  # the broker's loop is gone
            self._main.call_soon_threadsafe(self._next, question)

    def _next(self, question: _Question) -> None:
        """On the broker's loop: the answer, and somebody else's turn."""
        question.over = True
        self._places.release()
        if question.task.cancelled():
            _settle(question.answer, _Broken(question.asking))
        else:
            _settle(question.answer, question.task.exception() or question.task.result())


def samples(filter: str) -> list[str]:
    """Topics that between them stand for all that `filter` matches.

    Each wildcard becomes a level that nobody has listed; `#` one such level, and as many as a topic can have. A list of
    topics or filters that allows these has a wildcard there itself.
    """
    levels = [_PROBE if level == "+" else level for level in filter.split("/")]
    if levels[-1] != "#":
        return ["/".join(levels)]
    del levels[-1]
    return ["/".join([*levels, *[_PROBE] * deep]) for deep in (1, TOPIC_LEVELS_MAX - len(levels))]


async def _answer_of(loaded: _Loaded, question: _Question, ask: Callable[..., Any], **what: Any) -> Any:
    """What a plugin says. Raises `_Broken` for whatever it raises: not even SystemExit ends the thread."""
    question.asking = loaded.name
    try:
        return await ask(**what)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and question.task.cancelling():
            raise  # it was given up
        raise _Broken(loaded.name) from error


def _discreet(error: BaseException | None, secret: str | None) -> BaseException | None:
    """`error`, for the log; only where it comes from if it tells a client's password, as a URL in it may."""
    if error is None or not secret:
        return error
    said = "".join(traceback.format_exception(error))
    if not any(secret in text for text in (said, unquote(said), unquote_plus(said))) and repr(secret)[1:-1] not in said:
        return error
    return _Broken(f"{type(error).__name__}; what it says has a password in it").with_traceback(error.__traceback__)


def _settle(future: "asyncio.Future[Any]", outcome: Any) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


# -- loading -----------------------------------------------------------------------------------------------------------


class _NoBroker:
    """Stands where amqtt's `BrokerContext` has amqtt's broker."""

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(f"pushbroker gives amqtt plugins no broker to use: {name}")


def _load(name: str, options: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> _Loaded:
    """Import a plugin and make it, as amqtt's plugin manager does. Raises `Failed`, of settings `Misconfigured`."""
    try:
        from amqtt.broker import BrokerContext  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
        from amqtt.plugins.authentication import AnonymousAuthPlugin  # type: ignore[import-untyped]  # noqa: PLC0415
        from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin  # type: ignore[import-untyped]  # noqa: PLC0415
        from amqtt.utils import import_string  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise Misconfigured(
            f"the settings name amqtt plugins, but amqtt cannot be imported: {error}",
            remedy="Install it beside the broker: pip install 'pushbroker[amqtt]'",
        ) from None
    if "." not in name:
        raise Misconfigured(
            f"{name!r} is no full name of an amqtt plugin",
            remedy='Write it in quotes: [amqtt_plugins."amqtt.plugins.authentication.FileAuthPlugin"]',
        )
    try:
        kind = import_string(name)
    except Exception as error:
        contributed = name.startswith("amqtt.contrib.") and isinstance(error, ModuleNotFoundError)
        raise _failed(
            name,
            "cannot be imported",
            error,
            remedy="Install what it needs beside the broker: pip install 'amqtt[contrib]'"
            if contributed
            else "See that the name is right, and the module installed beside the broker.",
            kind=Misconfigured,
        ) from error
    if not isinstance(kind, type) or not issubclass(kind, BaseAuthPlugin | BaseTopicPlugin):
        raise Misconfigured(
            f"{name} is neither an authentication nor a topic plugin of amqtt",
            remedy="Only BaseAuthPlugin and BaseTopicPlugin run in pushbroker; take the others out of the settings.",
        )
    loaded = _Loaded(
        name,
        None,
        authenticates=issubclass(kind, BaseAuthPlugin),
        decides_topics=issubclass(kind, BaseTopicPlugin),
        credulous=issubclass(kind, AnonymousAuthPlugin),
    )
    for method, needed in (("authenticate", loaded.authenticates), ("topic_filtering", loaded.decides_topics)):
        if needed and not iscoroutinefunction(getattr(kind, method)):
            raise Misconfigured(
                f"{name}.{method} is no coroutine", remedy="Write it with async def, as amqtt wants it."
            )
    context = BrokerContext(_NoBroker())
    context.loop = loop
    context.logger = logging.getLogger("amqtt.broker.plugins").getChild(kind.__name__)
    context.config = _options(name, kind.Config, options)  # type: ignore[attr-defined]
    try:
        return loaded._replace(plugin=kind(context))
    except Exception as error:
        raise _failed(name, "cannot be made", error) from error


def _options(name: str, kind: Any, options: Mapping[str, Any]) -> Any:
    """A plugin's options as its `Config`. What is said of a wrong one does not show it: it may be a secret."""
    from dacite import Config, DaciteFieldError, UnexpectedDataError, from_dict  # noqa: PLC0415 - an extra

    try:
        return from_dict(kind, options, Config(strict=True, cast=[Enum]))
    except UnexpectedDataError as error:
        raise Misconfigured(
            f"{name} has no option {', '.join(sorted(error.keys))}",
            remedy=f"It has: {', '.join(kind.__dataclass_fields__) or 'none'}.",
        ) from None
    except DaciteFieldError as error:
        what = type(error).__name__.removesuffix("Error").removesuffix("Value")
        raise Misconfigured(
            f"{name}: the option {error.field_path} is {'missing' if what == 'Missing' else 'of the wrong kind'}",
            remedy=f"Set it in [amqtt_plugins.{name!r}].",
        ) from None
    except (TypeError, ValueError) as error:
        raise _failed(name, "does not take its options", error, kind=Misconfigured) from None


def _failed(name: str, how: str, error: BaseException, remedy: str = "", kind: type[Failed] = Failed) -> Failed:
    return kind(
        f"{name} {how}: {type(error).__name__}: {error}",
        remedy=remedy or "Correct its settings, or what it connects to, or take it out of the configuration.",
    )


@functools.cache
def _session_kind() -> "type[Session]":
    from amqtt.session import Session  # noqa: PLC0415 - an extra

    connected = Session().transitions
    connected.set_state("connected")

    class GuestSession(Session):  # type: ignore[misc]
        """amqtt's session with one state machine for all: one each would be 18 of 24 KB.

        `proven`: somebody looked at more than whether there is a user name.
        """

        proven = False

        def _init_states(self) -> None:
            self.transitions = connected

    return GuestSession


def _session(presented: "Presented") -> "Session":
    """What plugins see of a client. `UnicodeDecodeError` for a password that is not text."""
    session = _session_kind()()
    session.client_id = presented.client_id
    session.username = presented.username
    session.password = None if presented.password is None else presented.password.decode()
    host, _, port = presented.address.rpartition(":")
    session.remote_address, session.remote_port = host.strip("[]"), int(port) if port.isdecimal() else None
    return session
