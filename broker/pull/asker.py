"""Who asks: what the records know of a device and its user, for relevance and for templates."""

import sqlite3

from broker.pull.question import Asker


def asker_of(db: sqlite3.Connection, brand: str, device: str, user: str, store: str, locale: str = "") -> Asker:
    """Who that is. `db` has the records as `records`; `locale` is what the question itself says."""
    kind, name = ("user", user) if user else ("device", device)
    who = (brand, kind, name)
    title = db.execute("SELECT title FROM records.users WHERE brand = ? AND name = ?", (brand, user)).fetchone()
    said = db.execute(
        "SELECT locale, time_zone FROM records.preferences WHERE brand = ? AND kind = ? AND name = ?", who
    ).fetchone()
    tags = db.execute("SELECT tag FROM records.tags WHERE brand = ? AND kind = ? AND name = ?", who)
    attributes = db.execute("SELECT key, value FROM records.attributes WHERE brand = ? AND kind = ? AND name = ?", who)
    preferred, time_zone = said or ("", "")
    return Asker(
        brand=brand,
        device=device,
        user=user,
        store=store,
        language=language_of(locale or preferred),
        time_zone=time_zone,
        title=title[0] if title else "",
        tags=frozenset(tag for (tag,) in tags),
        attributes=dict(attributes.fetchall()),
    )


def language_of(locale: str) -> str:
    """'it' of 'it-IT' or 'it_CH'; '' of what begins otherwise."""
    language = locale.replace("_", "-").partition("-")[0].lower()
    return language if len(language) in (2, 3) and language.isalpha() else ""
