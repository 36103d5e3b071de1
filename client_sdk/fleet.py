"""What a device is told to do, and how it is set up: each command once, and the newest configuration.

    arrived ──→ kept, acknowledged ──→ begun ──→ handler returned or raised: answered, the answer is kept
                                         └─────→ the process ended meanwhile: answered at the next start, as failed

A command is acknowledged when it is in the device's memory. It is noted as begun before its handler runs, so whatever
happens it is not run a second time. Handlers run one at a time.
"""

import json
import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from client_sdk.errors import PushError
from client_sdk.memory import Memory
from client_sdk.notification import parse_time
from client_sdk.topics import Place, check_name

log = logging.getLogger(__name__)

# What a handler returns and why it failed are cut to so many characters: the broker takes 16 KiB of JSON.
OUTPUT_MAX: Final = 1000
_FORGETFUL: Final = "the device cannot remember that it does this: is its disk full?"
CommandHandler = Callable[[dict[str, str]], Any]
ConfigHandler = Callable[[dict[str, str]], Any]
Done = Callable[[Any, BaseException | None], None]
Perform = Callable[[Callable[[], None], Callable[[], Any], Done], None]


class Fleet:
    """For the network thread, except for `on_command`, `on_config` and what `perform` is given.

    perform(begin, work, done): where handlers run, call `begin`, then `work` (or await what it returns), and then
    `done` with what came of it. say(kind, payload): tell the broker, surely.
    """

    def __init__(
        self,
        place: Place,
        memory: Memory,
        *,
        perform: Perform,
        say: Callable[[str, bytes], None],
    ) -> None:
        self._memory = memory
        self._perform = perform
        self._say = say
        self._command_topic = f"{place.brand}/device/{place.device}/command"
        self._config_topic = f"{place.brand}/device/{place.device}/desired"
        self._handlers: dict[str, CommandHandler] = {}
        self._on_config: ConfigHandler | None = None
        self._due: deque[Callable[[], None]] = deque()
        self._busy = False

    def on_command(self, name: str, handler: CommandHandler) -> None:
        """Have `handler` do this command."""
        self._handlers[check_name("command", name)] = handler

    def on_config(self, handler: ConfigHandler) -> None:
        """Have `handler` take over configurations."""
        self._on_config = handler

    @property
    def filters(self) -> frozenset[str]:
        """What to listen to: only what there are handlers for."""
        return frozenset(
            ([self._command_topic] if self._handlers else []) + ([self._config_topic] if self._on_config else [])
        )

    def start(self) -> None:
        """Go on with what the last process left, and hand over the configuration that it had."""
        for id, payload, begun in self._memory.commands():
            if begun:
                self._answer(id, error="the device stopped while it did this")
            else:
                self._enqueue(id, payload)
        if known := self._memory.config():
            self._configure(*known)

    def arrived(self, topic: str, payload: bytes) -> bool:
        """Take a message, if it is ours. It may be acknowledged then."""
        if topic == self._command_topic:
            self._commanded(payload)
        elif topic == self._config_topic:
            self._desired(payload)
        else:
            return False
        return True

    # -- commands ------------------------------------------------------------------------------------------------------

    def _commanded(self, payload: bytes) -> None:
        try:
            id = _object(payload)["command_id"]
            if not isinstance(id, str) or not 0 < len(id) <= 64:
                raise ValueError("its command_id is none")
        except (ValueError, KeyError) as error:
            log.warning("a command cannot be read: %r", error)
            return
        if self._memory.commanded(id):
            return
        if self._memory.keep_command(id, payload):
            self._enqueue(id, payload)
        else:  # it might be done twice
            self._answer(id, error=_FORGETFUL)

    def _enqueue(self, id: str, payload: bytes) -> None:
        self._due.append(lambda: self._do(id, payload))
        self._next()

    def _do(self, id: str, payload: bytes) -> None:
        try:
            command = _object(payload)
            name, args = str(command["name"]), _texts(command.get("args", {}))
            expires_at = parse_time(command["expires_at"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._answered(id, error=f"the device cannot read the command: {error!r}")
            return
        handler = self._handlers.get(name)
        if handler is None:
            self._answered(id, error=f"the device knows no command {name!r}")
        elif datetime.now(UTC) >= expires_at:
            self._answered(id, error="it had expired, by the device's clock, before it was begun")
        else:
            self._perform(
                lambda: self._begin(id),
                lambda: handler(args),
                lambda output, error: self._done(id, name, output, error),
            )

    def _begin(self, id: str) -> None:
        if not self._memory.begin_command(id):
            raise PushError(_FORGETFUL)

    def _done(self, id: str, name: str, output: Any, error: BaseException | None) -> None:
        if error is None:
            self._answered(id, output="" if output is None else str(output))
        else:
            log.error("the handler of the command %s failed", name, exc_info=error)
            self._answered(id, error=_why(error))

    def _answered(self, id: str, output: str = "", error: str = "") -> None:
        self._answer(id, output, error)
        self._finished()

    def _answer(self, id: str, output: str = "", error: str = "") -> None:
        said = {"command_id": id, "ok": not error, "output": output[:OUTPUT_MAX], "error": error[:OUTPUT_MAX]}
        self._say("result", json.dumps(said, ensure_ascii=False).encode(errors="replace"))
        self._memory.end_command(id)

    def _next(self) -> None:
        while self._due and not self._busy:
            self._busy = True
            self._due.popleft()()

    def _finished(self) -> None:
        self._busy = False
        self._next()

    # -- configuration -------------------------------------------------------------------------------------------------

    def _desired(self, payload: bytes) -> None:
        if not payload:  # the device was removed
            return
        try:
            desired = _object(payload)
            version, config = desired["version"], _texts(desired["config"])
            if not isinstance(version, int) or isinstance(version, bool):
                raise ValueError("its version is no number")
        except (ValueError, KeyError, AttributeError) as error:
            log.warning("a configuration cannot be read: %r", error)
            return
        known = self._memory.config()
        if known is not None and known[:2] == (version, config) and known[2] is not None:
            return  # it has said so
        self._memory.keep_config(version, config)
        self._configure(version, config, None)

    def _configure(self, version: int, config: dict[str, str], told: str | None) -> None:
        """Have it taken over; `told` is what the broker was told of this version: '' for good, an error, or nothing."""
        handler = self._on_config
        if handler is None:
            return

        def done(_: Any, error: BaseException | None) -> None:
            why = "" if error is None else _why(error)
            if error is not None:
                log.error("the handler failed for version %d of the configuration", version, exc_info=error)
            if why != told:
                report = {"version": version, "config": config if error is None else {}, "error": why}
                self._say("reported", json.dumps(report, ensure_ascii=False).encode(errors="replace"))
                self._memory.told_config(version, why)
            self._finished()

        self._due.append(lambda: self._perform(lambda: None, lambda: handler(dict(config)), done))
        self._next()


def _why(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:OUTPUT_MAX]


def _object(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload.decode())
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found


def _texts(values: Any) -> dict[str, str]:
    if not isinstance(values, dict):
        raise ValueError("it has no keys and values")
    return {str(key): str(value) for key, value in values.items()}
