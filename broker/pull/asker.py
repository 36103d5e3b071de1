"""Who asks: what the records know of a device and its user, for relevance and for templates."""

import json
import sqlite3
from typing import Final

from broker.pull.question import Asker

_OF: Final = "WHERE brand = :brand AND kind = :kind AND name = :name"
_WHO: Final = f"""SELECT
    (SELECT title FROM records.users WHERE brand = :brand AND name = :user),
    (SELECT locale FROM records.preferences {_OF}),
    (SELECT time_zone FROM records.preferences {_OF}),
    (SELECT json_group_array(tag) FROM records.tags {_OF}),
    (SELECT json_group_object(key, value) FROM records.attributes {_OF})"""  # noqa: S608 - our own words


def asker_of(db: sqlite3.Connection, brand: str, device: str, user: str, store: str, locale: str = "") -> Asker:
    """Who that is. `db` has the records as `records`; `locale` is what the question itself says."""
    values = {"brand": brand, "kind": "user" if user else "device", "name": user or device, "user": user}
    title, preferred, time_zone, tags, attributes = db.execute(_WHO, values).fetchone()
    return Asker(
        brand=brand,
        device=device,
        user=user,
        store=store,
        language=language_of(locale or preferred or ""),
        time_zone=time_zone or "",
        title=title or "",
        tags=frozenset(json.loads(tags)),
        attributes=json.loads(attributes),
    )


def language_of(locale: str) -> str:
    """'it' of 'it-IT' or 'it_CH'; '' of what begins otherwise."""
    language = locale.replace("_", "-").partition("-")[0].lower()
    return language if len(language) in (2, 3) and language.isalpha() else ""
