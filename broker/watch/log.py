"""The log: structlog on the standard library's handlers, to stderr. Text for people, JSON lines for programs.

Events are named with a constant sentence; what varies stands in keywords. Secrets and payloads are never logged.
"""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import Processor

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up(level: Literal["debug", "info", "warning", "error"], form: Literal["text", "json"]) -> None:
    """Configure structlog and the root logger. May be called again: the last call counts."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor]
    if form == "json":
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        ending = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    # aiosqlite logs each statement, asyncio each selector: theirs is noise at our debug level.
    for noisy in ("aiosqlite", "asyncio", "aiohttp"):
        logging.getLogger(noisy).setLevel(max(_LEVELS[level], logging.INFO))
    logging.getLogger("client_sdk").setLevel(logging.ERROR)  # its connection carries links, which say the same
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
