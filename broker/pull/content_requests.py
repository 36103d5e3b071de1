"""What a brand's server asks for on `{brand}/content`: to put, change, remove and get items."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from broker import limits
from broker.bridge.facts import Asked
from broker.bridge.request import Code, RequestRefused, at_fault, request_id_of
from broker.counters import Counters
from broker.errors import NotFound, Refused
from broker.pull.library import Library, Stored

SOME_REFUSED: Final = "some_refused"  # the other items were taken
_Name = Annotated[str, Meta(max_length=64)]
_Language = Annotated[str, Meta(max_length=8)] | None


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    language: _Language = None


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One of these. Fields that we do not know are an error."""

    request_id: str = ""
    put: Annotated[list[Any], Meta(max_length=limits.ITEMS_AT_ONCE)] | UnsetType = UNSET
    set: dict[str, Any] | UnsetType = UNSET
    remove: Annotated[list[_Name | _Named], Meta(max_length=limits.ITEMS_AT_ONCE)] | UnsetType = UNSET
    get: _Name | UnsetType = UNSET


_VERBS: Final = ("put", "set", "remove", "get")
_decode: Final = msgspec.json.Decoder(_Request).decode
_json: Final = msgspec.json.Encoder().encode


class ContentRequests:
    """Answers them. A request that comes again after a crash finds its work done, and nothing changes."""

    def __init__(self, library: Library, counters: Counters) -> None:
        self._library = library
        self._counters = counters

    async def answer(self, asked: Asked) -> bytes:
        """Do what a request wants, and say what came of it."""
        said: dict[str, Any]
        try:
            said = await self._done(asked.brand, _parsed(asked.payload))
        except RequestRefused as error:
            said = _refusal(error.code, error.field, error.message, error.remedy)
        except NotFound as error:
            said = _refusal(Code.NOT_FOUND, "name", error.message)
        except Refused as error:
            said = _refusal(Code.BAD_VALUE, "", error.message, error.remedy)
        answer = {"ok": True, "request_id": request_id_of(asked.payload), **said}
        self._counters.content_refused += not answer["ok"]
        return _json(answer)

    def full(self, asked: Asked) -> bytes:
        """What is said where too much waits to be done."""
        self._counters.content_refused += 1
        said = _refusal(Code.TOO_MANY, "", "too many changes wait to be done", "Wait for answers before you send more")
        return _json({"request_id": request_id_of(asked.payload), **said})

    async def _done(self, brand: str, request: _Request) -> dict[str, Any]:
        library = self._library
        if request.put is not UNSET:
            return _stored(await library.put(brand, request.put))
        if request.set is not UNSET:
            changes = dict(request.set)
            named = {field: changes.pop(field) for field in ("name", "language") if field in changes}
            try:
                which = msgspec.convert(named, _Named)
            except msgspec.ValidationError as error:
                raise RequestRefused(*at_fault(error)) from None
            stored = await library.set(brand, which.name, which.language, changes)
            return {"changed": stored.changed, "same": stored.same}
        if request.remove is not UNSET:
            names = [(one, None) if isinstance(one, str) else (one.name, one.language) for one in request.remove]
            return {"changed": await library.remove(brand, names)}
        assert request.get is not UNSET  # it is one of the four
        return {"items": await library.show(brand, request.get)}


def _parsed(payload: bytes) -> _Request:
    try:
        request = _decode(payload)
    except msgspec.ValidationError as error:
        raise RequestRefused(*at_fault(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefused(Code.BAD_JSON, "", f"the request is no JSON object: {error}") from None
    if sum(getattr(request, verb) is not UNSET for verb in _VERBS) != 1:
        raise RequestRefused(Code.BAD_VALUE, "", f"a request wants one of {', '.join(_VERBS)}")
    return request


def _stored(stored: Stored) -> dict[str, Any]:
    bad = stored.refused
    counts = {"changed": stored.new + stored.changed, "new": stored.new, "same": stored.same}
    if not bad:
        return counts
    words = f"{len(bad)} of {len(bad) + counts['changed'] + stored.same} items were refused; the others are taken"
    told = msgspec.to_builtins(bad[: limits.ITEMS_REFUSED_TOLD])
    field = f"put[{bad[0].index}].{bad[0].field}".rstrip(".")
    return {**_refusal(SOME_REFUSED, field, words), **counts, "refused": told}


def _refusal(code: str, field: str, message: str, remedy: str = "") -> dict[str, Any]:
    return {"ok": False, "code": code, "field": field, "message": f"{message}. {remedy}".removesuffix(". ")}
