"""What agents ask for, as it is read."""

import json
import time
from typing import Any

import pytest

from broker.pull.inbox_requests import parse
from broker.pull.moves import InboxRefused


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"do": "x" * 900_000}, "do"),
        ({"do": "list", "state": "x" * 900_000}, "state"),
        ({"do": "list", "x" * 900_000: 1}, "xxx"),
    ],
)
def test_much_that_is_wrong_is_refused_at_once(fields: dict[str, Any], field: str) -> None:
    payload = json.dumps(fields).encode()
    spent = []
    for _ in range(3):
        began = time.thread_time()
        with pytest.raises(InboxRefused) as caught:
            parse(payload)
        spent.append(time.thread_time() - began)
    assert min(spent) < 0.02
    assert caught.value.code == "bad_value"
    assert caught.value.field.startswith(field)
    assert len(caught.value.message) < 500
