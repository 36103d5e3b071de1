"""A brand's library of answers: from what a program wants to a request on `{brand}/content`, and what came of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from client_sdk.pushing import Request, answered, to_json
from client_sdk.topics import check_name

_REMEDY: Final = "Do it again: what is so already stays as it is"
_SOME_REFUSED: Final = "some_refused"


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """An item that was not taken: which of those that were put, and what is wrong with which of its fields."""

    index: int
    name: str
    field: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What came of a put: how many items are not as they were, how many of those `new`, and how many the `same`.

    `refused` are the first 50 of those that were not taken; the others were.
    """

    changed: int
    new: int
    same: int
    refused: Sequence[RefusedItem] = ()

    @classmethod
    def from_json(cls, payload: bytes) -> Self:
        """Read what the broker answers. Raises `Rejected` when it took nothing, `ValueError` when it is no answer."""
        fields = answered(payload, good=_SOME_REFUSED)
        refused = fields.get("refused", [])
        if not isinstance(refused, list):
            raise ValueError("refused must be a list")
        changed, new, same = (_count(fields, name) for name in ("changed", "new", "same"))
        return cls(changed, new, same, tuple(_refused(item) for item in refused))


def compose_put(items: Iterable[Mapping[str, Any]]) -> Request:
    """The request to take these items. Raises `ValueError` for what is none."""
    listed = list(items)
    if not all(isinstance(item, Mapping) for item in listed):
        raise ValueError("items are mappings: [{'name': 'torta', 'title': 'Torta al cioccolato'}]")
    return _request("put", [dict(item) for item in listed])


def compose_set(name: str, language: str | None, changes: Mapping[str, Any]) -> Request:
    """The request to change some fields of an item."""
    if not changes:
        raise ValueError("say what is to be changed: title=, body=, data= and so on")
    which = {"name": check_name("item", name), **({} if language is None else {"language": language})}
    return _request("set", {**changes, **which})


def compose_remove(names: Sequence[str], language: str | None) -> Request:
    """The request to remove items, in all languages or in one."""
    if not names:
        raise ValueError("say which items are to be removed")
    checked = [check_name("item", name) for name in names]
    return _request("remove", checked if language is None else [{"name": n, "language": language} for n in checked])


def compose_get(name: str) -> Request:
    """The request for an item, as it is in each language."""
    return _request("get", check_name("item", name))


def read_changed(payload: bytes) -> int:
    """How many items were changed. Raises as `Stored.from_json`."""
    return _count(answered(payload), "changed")


def read_items(payload: bytes) -> list[dict[str, Any]]:
    """The items that were asked for. Raises as `Stored.from_json`."""
    items = answered(payload).get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError("items must be a list of objects")
    return items


def _request(verb: str, what: object) -> Request:
    try:
        payload = to_json({verb: what})
    except (TypeError, RecursionError) as error:
        raise ValueError(f"that cannot be written as JSON: {error}") from error
    return Request(payload, _REMEDY, "content")


def _count(fields: Mapping[str, Any], name: str) -> int:
    count = fields.get(name)
    if not isinstance(count, int):
        raise ValueError(f"{name} must be a number")
    return count


def _refused(item: Any) -> RefusedItem:
    if not isinstance(item, dict) or not isinstance(item.get("index"), int):
        raise ValueError("a refused item must be an object with its index")
    name, field, code, message = (str(item.get(part, "")) for part in ("name", "field", "code", "message"))
    return RefusedItem(item["index"], name, field, code, message)
