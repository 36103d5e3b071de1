"""The published form of requests to `{brand}/send` and of their answers, as JSON Schema, made from what checks them."""

from typing import Any, Final

import msgspec

from broker.bridge.request import Answer, Code, SendRequest, WithdrawRequest

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
# What the structs do not say, and `request.check` does.
_BODIES: Final = ("notification", "payload", "payload_base64")
_LISTS: Final = ("users", "devices", "stores", "topics")
_TEXTS: Final = ("segment", "condition", "following")


def schema() -> dict[str, Any]:
    """JSON Schema of a request. `#/$defs/Answer` in it is that of an answer."""
    requests = (SendRequest, WithdrawRequest)
    (*found, _), parts = msgspec.json.schema_components((*requests, Answer), ref_template="#/$defs/{name}")
    parts["SendRequest"]["oneOf"] = [{"required": [name]} for name in _BODIES]
    parts["Notification"]["anyOf"] = [_filled(name, "minLength") for name in ("title", "body")]
    somebody = [*(_filled(name, "minItems") for name in _LISTS), *(_filled(name, "minLength") for name in _TEXTS)]
    not_opened = {"required": ["unopened"], "properties": {"unopened": {"type": "object"}}}
    parts["To"]["oneOf"] = [{"anyOf": somebody}, not_opened]
    parts["Answer"]["properties"]["code"]["enum"] = ["", *Code]
    return {"$schema": _DIALECT, "title": "A request to {brand}/send", "oneOf": list(found), "$defs": parts}


def _filled(name: str, least: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {least: 1}}}
