"""Rich sends: takes requests, writes down who gets what, and answers. Nothing is sent before all of that is there.

A request is a fact before its publisher hears that it was received, so it is accepted or refused whatever happens to
this process. Its message is written with its idempotency key in one transaction; then its recipients, some at a time;
then it is opened, and the dispatcher begins. A crash on the way begins again with the recipients.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from broker.bridge import request as requests
from broker.bridge.facts import Asked
from broker.bridge.intake import now_ms
from broker.bridge.message_id import MessageIds
from broker.bridge.request import Answer, Code, RequestRefused, SendRequest, To, WithdrawRequest
from broker.errors import Failed
from broker.limits import NOT_BEFORE_MAX_S, RECIPIENTS_MAX
from broker.store.messages import MessageRow, Messages, NewMessage, NewRecipient

# Filled at the same time: a large one does not hold up those of one recipient.
FILLING_MAX: Final = 4
SAMPLE: Final = 20
RETRY_S: Final = 1.0
LAST_ZONE: Final = timezone(timedelta(hours=-12))  # the last place where it is some time


class Addressee(NamedTuple):
    """Somebody whom a request addresses. `left_out`: why they get nothing all the same, or ''; `due_at`: not before."""

    kind: str
    name: str
    because: str
    left_out: str
    due_at: int


class Audience(Protocol):
    """Who finds out whom a request is for."""

    def __call__(
        self, brand: str, to: To, *, local_time: str, not_before: int, now: int
    ) -> AsyncIterator[list[Addressee]]:
        """All of them, each once, some at a time. Raises `RequestRefused` for names that there are not."""
        ...


class Sends:
    """Accepts rich sends.

    run: a coroutine, beside all else. reply(topic, correlation data, answer):
    publish it. schedule(message, when): it may be sent. withdraw(message, by): returns when that is certain, with
    what waits for its end and says from how many it was taken back.
    """

    def __init__(
        self,
        *,
        messages: Messages,
        ids: MessageIds,
        audience: Audience,
        run: Callable[[Coroutine[Any, Any, None]], object],
        reply: Callable[[str, bytes, bytes], object],
        schedule: Callable[[int, int], object],
        withdraw: Callable[[MessageRow, str], Awaitable[Awaitable[int]]],
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
    ) -> None:
        self._messages = messages
        self._ids = ids
        self._audience = audience
        self._run = run
        self._reply = reply
        self._schedule = schedule
        self._take_back = withdraw
        self._log = log
        self._unexpected = unexpected
        self._fillers = asyncio.Semaphore(FILLING_MAX)
        self._filling: dict[str, asyncio.Future[Answer]] = {}  # by message id

    # -- requests ----------------------------------------------------------------------------------------------------

    async def asked(self, group: Sequence[Asked], up_to: int) -> None:
        """These requests are on the disk. Raises `Failed` when they cannot be taken over: then they come again."""
        new: list[tuple[Asked, SendRequest, NewMessage]] = []
        tried: list[tuple[Asked, SendRequest]] = []
        refused: list[tuple[Asked, RequestRefused]] = []
        for one in group:
            try:
                request = requests.parse(one.payload)
                if isinstance(request, WithdrawRequest):
                    await self._withdraw(one, request)
                elif request.dry_run:
                    tried.append((one, request))
                else:
                    new.append((one, request, _message(one, request)))
            except RequestRefused as error:
                refused.append((one, error))
        for one, request, before in await self._added(new, up_to):
            self._run(self._again(one, request, before))
        for one, request in tried:  # these two once each, so not before the others are written
            self._run(self._tried(one, request))
        for one, why in refused:
            self._answer(one, _refused(why, requests.request_id_of(one.payload)))

    async def accept(self, brand: str, request: SendRequest, sender: str = "") -> Answer:
        """Take a request of the operator's, and return when it is accepted. Raises `RequestRefused`."""
        if request.dry_run:
            return await self._count(Asked(brand, sender, self._ids.next(), b"", "", b"", now_ms()), request)
        answer = await asyncio.shield(await self.begin(brand, request, sender))
        if not answer.ok:
            raise RequestRefused(answer.code, answer.field, answer.message)
        return answer

    async def begin(
        self,
        brand: str,
        request: SendRequest,
        sender: str = "",
        *,
        id: str = "",
        beside: Callable[[sqlite3.Connection], object] | None = None,
    ) -> asyncio.Future[Answer]:
        """Write a request down, which is sent then whatever happens. What it returns has the answer, once it is known.

        `beside` is done in the same transaction. With an id that was taken before, nothing is sent again.
        """
        requests.check(request)
        asked = Asked(brand, sender, id or self._ids.next(), b"", "", b"", now_ms())
        known = await self._added([(asked, request, _message(asked, request))], 0, beside)
        return asyncio.ensure_future(_repeated(known[0][2])) if known else self._filling[asked.id]

    async def _added(
        self,
        new: Sequence[tuple[Asked, SendRequest, NewMessage]],
        up_to: int,
        beside: Callable[[sqlite3.Connection], object] | None = None,
    ) -> list[tuple[Asked, SendRequest, Answer | asyncio.Future[Answer]]]:
        """Write messages down, and have them filled. Returns those that stand there already, with their answers."""
        keys = [
            (request.idempotency_key, requests.digest(request), one.at + request.idempotency_s * 1000)
            if request.idempotency_key
            else None
            for one, request, _ in new
        ]
        stands = await self._messages.add(
            [(row, key) for (_, _, row), key in zip(new, keys, strict=True)], up_to, beside
        )
        for (_, _, row), (id, _) in zip(new, stands, strict=True):
            if id == row.id:
                self._fill(id)
        known: list[tuple[Asked, SendRequest, Answer | asyncio.Future[Answer]]] = []
        for (one, request, row), key, (id, digest) in zip(new, keys, stands, strict=True):
            if id == row.id:
                continue
            if key is not None and digest != key[1]:
                what = f"another request came with the idempotency key {request.idempotency_key!r}; it is message {id}"
                refused = _refused(RequestRefused(Code.IDEMPOTENCY_CONFLICT, "idempotency_key", what))
                known.append((one, request, refused))
            elif (before := await self._messages.by_id(id)) is not None and before.state != "filling":
                known.append((one, request, msgspec.json.decode(before.answer, type=Answer)))
            else:
                known.append((one, request, self._fill(id)))  # it may be refused yet
        return known

    async def _again(self, one: Asked, request: SendRequest, before: Answer | asyncio.Future[Answer]) -> None:
        self._answer(one, msgspec.structs.replace(await _repeated(before), request_id=request.request_id))

    # -- recipients --------------------------------------------------------------------------------------------------

    async def resume(self) -> None:
        """Go on with what was being written when the process ended."""
        for id in await self._messages.filling():
            self._fill(id)

    def _fill(self, id: str) -> asyncio.Future[Answer]:
        """Have the recipients of a message written, once. What it returns has its answer then."""
        if (filled := self._filling.get(id)) is None:
            filled = self._filling[id] = asyncio.get_running_loop().create_future()
            self._run(self._fill_once(id, filled))
        return filled

    async def _fill_once(self, id: str, filled: asyncio.Future[Answer]) -> None:
        try:
            async with self._fillers:
                filled.set_result(await self._filled(id))
        finally:
            del self._filling[id]

    async def _filled(self, id: str) -> Answer:
        while True:
            try:
                row = await self._messages.by_id(id)
                if row is None:
                    what = "the request that came before with this idempotency key was refused: send it again"
                    return _refused(RequestRefused(Code.NOT_FOUND, "idempotency_key", what))
                if row.state != "filling":  # a request that came again
                    return msgspec.json.decode(row.answer, type=Answer)
                answer = await self._written(row)
                break
            except Failed as error:
                self._log("recipients cannot be written", error=error.message, remedy=error.remedy)
                await asyncio.sleep(RETRY_S)
        if row.reply_topic:
            said = msgspec.structs.replace(answer, request_id=row.request_id)
            self._reply(row.reply_topic, row.reply_data, requests.encode_answer(said))
        return answer

    async def _written(self, row: MessageRow) -> Answer:
        await self._messages.empty(row.number)
        to = msgspec.json.decode(row.address, type=To)
        tally = _Tally()
        try:
            async for page in self._pages(row.brand, to, row.local_time, row.not_before, row.accepted_at):
                await self._messages.fill(row.number, tally.all, [_recipient(one) for one in page])
                tally.add(page)
        except RequestRefused as error:
            await self._messages.discard(row.number)
            return _refused(error)
        except Failed:
            raise
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and nothing stays behind
            self._unexpected(error)
            await self._messages.discard(row.number)
            return _refused(RequestRefused(Code.INTERNAL_ERROR, "", "a bug of the broker's: its log says more"))
        answer = tally.answer(row.id)
        await self._messages.open_up(row.number, tally.all, requests.encode_answer(answer).decode())
        if tally.due_at:
            self._schedule(row.number, tally.due_at)
        return answer

    async def _pages(
        self, brand: str, to: To, local_time: str, not_before: int | None, now: int
    ) -> AsyncIterator[list[Addressee]]:
        count = 0
        async for page in self._audience(
            brand, to, local_time=local_time, not_before=max(now, not_before or 0), now=now
        ):
            count += len(page)
            if count > RECIPIENTS_MAX:
                what = f"it is for more than {RECIPIENTS_MAX:,} recipients: send it in parts"
                raise RequestRefused(Code.TOO_MANY, "to", what)
            yield page

    async def _tried(self, one: Asked, request: SendRequest) -> None:
        async with self._fillers:
            while True:
                try:
                    answer = await self._count(one, request)
                except RequestRefused as error:
                    answer = _refused(error)
                except Failed as error:
                    self._log("recipients cannot be read", error=error.message, remedy=error.remedy)
                    await asyncio.sleep(RETRY_S)
                    continue
                break
        self._answer(one, msgspec.structs.replace(answer, request_id=request.request_id))

    async def _count(self, one: Asked, request: SendRequest) -> Answer:
        """Who would get it."""
        row = _message(one, request)
        tally = _Tally()
        async for page in self._pages(one.brand, request.to, row.local_time, row.not_before, one.at):
            tally.add(page)
        return msgspec.structs.replace(tally.answer(""), dry_run=True, sample=tally.sample)

    # -- withdrawals -------------------------------------------------------------------------------------------------

    async def _withdraw(self, one: Asked, request: WithdrawRequest) -> None:
        """Begin; it goes on after a crash too. The answer comes at its end, if this process lives to see that."""
        row = await self._messages.by_id(request.withdraw)
        if row is None or row.brand != one.brand:
            raise RequestRefused(Code.NOT_FOUND, "withdraw", f"{one.brand} has no message {request.withdraw!r}")
        done = await self._take_back(row, one.sender)

        async def answer() -> None:
            count = await done
            self._answer(one, Answer(ok=True, request_id=request.request_id, message_id=row.id, recipients=count))

        self._run(answer())

    def _answer(self, one: Asked, answer: Answer) -> None:
        self._reply(one.reply_topic, one.reply_data, requests.encode_answer(answer))


class _Tally:
    """What a message's answer says of its recipients."""

    def __init__(self) -> None:
        self.all = self.users = self.devices = 0
        self.left_out: dict[str, int] = {}
        self.due_at = 0  # of the first
        self.sample: list[str] = []

    def add(self, page: Sequence[Addressee]) -> None:
        """Count these."""
        self.all += len(page)
        for one in page:
            if one.left_out:
                self.left_out[one.left_out] = self.left_out.get(one.left_out, 0) + 1
                continue
            if one.kind == "user":
                self.users += 1
            else:
                self.devices += 1
            if not self.due_at or one.due_at < self.due_at:
                self.due_at = one.due_at
            if len(self.sample) < SAMPLE:
                self.sample.append(f"{one.kind}/{one.name}")

    def answer(self, id: str) -> Answer:
        """That, for the sender."""
        return Answer(
            ok=True,
            message_id=id,
            recipients=self.users + self.devices,
            users=self.users,
            devices=self.devices,
            left_out=self.left_out,
        )


def _message(one: Asked, request: SendRequest) -> NewMessage:
    payload, content_type = requests.encode_payload(request)
    not_before = None
    if request.not_before is not None:
        not_before = int(requests.utc(request.not_before).timestamp() * 1000)
        if not_before > one.at + NOT_BEFORE_MAX_S * 1000:
            what = f"at most {NOT_BEFORE_MAX_S // 86400} days ahead"
            raise RequestRefused(Code.BAD_VALUE, "not_before", what)
    expires_at = max(one.at, not_before or 0) + request.ttl_s * 1000
    if "T" in request.local_time:
        everywhere = datetime.fromisoformat(request.local_time).replace(tzinfo=LAST_ZONE)
        if everywhere.timestamp() * 1000 > expires_at:
            what = "it would have expired before that: say not_before, about a day before that, or a longer ttl_s"
            raise RequestRefused(Code.BAD_VALUE, "local_time", what)
    return NewMessage(
        id=one.id,
        brand=one.brand,
        sender=one.sender,
        campaign=request.campaign or None,
        variant=request.variant,
        kind=request.kind,
        priority=request.priority,
        content_type=content_type,
        payload=payload,
        collapse_key=request.collapse_key,
        receipts=request.receipts,
        throttle=request.throttle_per_s,
        address=msgspec.json.encode(request.to).decode(),
        not_before=not_before,
        local_time=request.local_time,
        request_id=request.request_id,
        reply_topic=one.reply_topic,
        reply_data=one.reply_data,
        accepted_at=one.at,
        expires_at=expires_at,
    )


def _recipient(one: Addressee) -> NewRecipient:
    detail = {
        "suppressed": "suppressed when the message was accepted",
        "revoked": "revoked when the message was accepted",
        "campaign_cap": "has had as much of this campaign as anybody may within that time",
    }.get(one.left_out, one.left_out)
    return NewRecipient(one.kind, one.name, one.because, one.due_at, one.left_out, detail)


async def _repeated(before: Answer | asyncio.Future[Answer]) -> Answer:
    """The answer to a request that came again."""
    answer = before if isinstance(before, Answer) else await asyncio.shield(before)
    return msgspec.structs.replace(answer, duplicate=answer.ok)


def _refused(error: RequestRefused, request_id: str = "") -> Answer:
    return Answer(ok=False, request_id=request_id, code=error.code, field=error.field, message=error.message)
