"""The admin socket of a running broker: HTTP on a Unix socket, so that `curl --unix-socket` works, too.

Who may use it is decided by the file: mode 0660, in a directory that only its owner enters unless the operator wants
otherwise.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from broker.admin import audit, operations
from broker.admin.wire import HTTP_STATUS, PREFIX, REQUEST_BYTES_MAX, encode_error
from broker.config import check_socket_path
from broker.errors import Failed, PushbrokerError, Refused
from broker.listen.bind import bind_unix

SOCKET_MODE: Final = 0o660
_log = logging.getLogger("pushbroker.admin")


class AdminServer:
    """Serves the table of operations on a Unix socket."""

    def __init__(self, context: operations.Context, path: Path) -> None:
        self._context = context
        self._path = path
        self._ours = False
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.router.add_post(PREFIX + "{operation}", self._answer)
        # Cancelling the handler when the client hangs up is what ends a tail.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)

    async def start(self, inherited: socket.socket | None = None) -> None:
        """Listen, on a socket that the supervisor handed over where there is one."""
        listening = inherited or bind(self._path)
        self._ours = inherited is None
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        """Stop listening, end what is under way, remove the socket that we made."""
        await self._runner.cleanup()
        if self._ours:
            self._path.unlink(missing_ok=True)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            arguments = _object(await request.read())
            name = request.match_info["operation"]
            sock = None if request.transport is None else request.transport.get_extra_info("socket")
            context = replace(self._context, actor=audit.peer(sock))
            if operations.find(name).streams:
                return await self._stream(request, await operations.stream(context, name, arguments))
            result = await operations.perform(context, name, arguments)
        except PushbrokerError as error:
            return _refusal(error)
        except web.HTTPException:
            raise
        except Exception:  # noqa: BLE001 - a bug: the client is told so, the log has the rest, the broker goes on
            _log.exception("operation failed", extra={"operation": request.match_info["operation"]})
            return _refusal(Failed("the broker met an error that it did not expect", remedy="Look into its log."))
        return _json(result)

    async def _stream(self, request: web.Request, iterator: AsyncIterator[Any]) -> web.StreamResponse:
        # The generator runs up to its first wait before the client hears of a beginning: what the client sends
        # after that (a message whose receipts it waits for) is not missed.
        first = asyncio.ensure_future(anext(iterator, None))
        await asyncio.sleep(0)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            if first.done():
                first.result()  # an error that is there already gets its own status
            await response.prepare(request)
            item = await first
            while item is not None:
                await response.write(msgspec.json.encode(operations.jsonable(item)) + b"\n")
                item = await anext(iterator, None)
        except PushbrokerError as error:
            if not response.prepared:
                raise
            await response.write(msgspec.json.encode(encode_error(error)) + b"\n")
        except ConnectionError:
            pass  # the client has had enough
        finally:
            first.cancel()
            if (close := getattr(iterator, "aclose", None)) is not None:
                with contextlib.suppress(RuntimeError):
                    await close()
        return response


def bind(path: Path) -> socket.socket:
    """A listening-to-be Unix socket at `path`, replacing a stale file; raises `Failed` when somebody answers there."""
    check_socket_path(path)
    return bind_unix(path, SOCKET_MODE, f"the admin socket {path}", "Name another path with --admin-socket.")


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"the request is no JSON object: {error}", reason=0x83) from None


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)


def _refusal(error: PushbrokerError) -> web.Response:
    value = encode_error(error)
    return _json(value, HTTP_STATUS[value["error"]["kind"]])
