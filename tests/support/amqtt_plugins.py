"""amqtt plugins as somebody might write them, well or badly. In settings they are `support.amqtt_plugins.NAME`."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin
from amqtt.session import Session


class Everybody(BaseAuthPlugin):
    """Lets everybody in who has a user name, and claims to have checked it."""

    async def authenticate(self, *, session: Session) -> bool | None:
        return bool(session.username)


class Opinion(BaseAuthPlugin):
    """Says what its options have, nothing at all if they have nothing."""

    async def authenticate(self, *, session: Session) -> bool | None:
        return self.config.says

    @dataclass
    class Config:
        says: bool | None = None


class Other(Opinion):
    """Another one."""


class Topics(BaseTopicPlugin):
    """Allows what a test says it does, and remembers what it was asked."""

    asked: ClassVar[list[tuple[str | None, str, str]]] = []
    answer: ClassVar[Callable[[str, str], Any]]

    @classmethod
    def reset(cls, answer: Callable[[str, str], Any] = lambda action, topic: True) -> None:
        cls.asked.clear()
        cls.answer = staticmethod(answer)

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        assert session is not None
        assert topic is not None
        self.asked.append((session.username, str(action), topic))
        answer = type(self).answer(str(action), topic)
        return await answer if asyncio.iscoroutine(answer) else answer


class Life(BaseAuthPlugin):
    """Remembers what it was told of the broker's life, and on which thread."""

    told: ClassVar[list[str]] = []
    threads: ClassVar[set[str]] = set()
    sessions: ClassVar[list[Session]] = []

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        assert context.loop is asyncio.get_running_loop()
        self._note("made")

    def _note(self, what: str) -> None:
        self.told.append(what)
        self.threads.add(threading.current_thread().name)

    async def on_broker_pre_start(self) -> None:
        self._note("pre_start")

    async def on_broker_post_start(self) -> None:
        self._note("post_start")

    async def on_broker_pre_shutdown(self) -> None:
        self._note("pre_shutdown")

    async def on_broker_post_shutdown(self) -> None:
        self._note("post_shutdown")

    async def on_broker_client_connected(self, **_: Any) -> None:
        self._note("never")

    async def close(self) -> None:
        self._note("close")

    async def authenticate(self, *, session: Session) -> bool | None:
        self._note("authenticate")
        self.sessions.append(session)
        return True


class Unready(BaseAuthPlugin):
    """Fails where it is told to."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        if self.config.where == "init":
            raise OSError("no such directory server")

    async def on_broker_pre_start(self) -> None:
        if self.config.where == "hang":
            await asyncio.Event().wait()
        raise OSError("no such table")

    @dataclass
    class Config:
        where: str = "start"


class Clings(BaseAuthPlugin):
    """Does not let go."""

    async def close(self) -> None:
        await asyncio.Event().wait()


class Quits(BaseAuthPlugin):
    """Raises what is no `Exception`, where it is told to."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._quit("init")

    def _quit(self, here: str) -> None:
        if self.config.where == here:
            raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "cancel": asyncio.CancelledError()}[
                self.config.how
            ]

    async def on_broker_pre_start(self) -> None:
        self._quit("start")

    async def close(self) -> None:
        self._quit("close")

    async def authenticate(self, *, session: Session) -> bool | None:
        async def task() -> None:
            self._quit("task")

        await asyncio.gather(task(), return_exceptions=True)
        return True

    @dataclass
    class Config:
        where: str
        how: str = "exit"


class Waits(BaseAuthPlugin):
    """Has a thread of its own wait for what does not come."""

    async def authenticate(self, *, session: Session) -> bool | None:
        return await asyncio.to_thread(threading.Event().wait)


class Outdated(BaseTopicPlugin):
    """Knows of no action."""

    async def topic_filtering(self, *, session: Session, topic: str) -> bool | None:  # type: ignore[override]
        return True


class Peeks(BaseAuthPlugin):
    """Wants more of the broker than there is for it."""

    async def authenticate(self, *, session: Session) -> bool | None:
        return self.context.get_session(session.client_id) is None  # type: ignore[attr-defined]


class NotAsync(BaseAuthPlugin):
    def authenticate(self, *, session: Session) -> bool | None:  # type: ignore[override]
        return True


class Listens(BasePlugin[Any]):
    """Neither lets in nor decides."""


class Secretive(BaseAuthPlugin):
    @dataclass
    class Config:
        secret: str
        port: int = 1
        many: list[str] = field(default_factory=list)


broken = 5
