"""Sessions to the records that a journal keeps, and back after a restart."""

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from broker.identity import Identity, Role
from broker.journal import DONE, RELEASED, SavedSession
from broker.message import Message
from broker.route.subscription import Subscription
from broker.session.session import Session
from broker.session.subscribe import group_of
from broker.wire.packets import Will
from broker.wire.topics import parse_shared

if TYPE_CHECKING:
    from broker.session.core import Core

# After a restart a client has so long to come back before its will is published.
WILL_GRACE_S = 60

_encode_will = msgspec.msgpack.Encoder().encode
_decode_will = msgspec.msgpack.Decoder(Will).decode


def saved_session(session: Session, offset: float) -> SavedSession:
    """A session as it is written. `offset` leads from the monotonic to the wall clock."""
    identity = session.identity
    return SavedSession(
        session.number,
        session.key,
        identity.role,
        identity.brand,
        identity.name,
        identity.user,
        identity.store,
        session.v5,
        session.expiry_s,
        session.ends_at + offset if session.ends_at else 0.0,
        session.low() if session.connected else session.cursor,
        session.next_id,
        session.dup_until,
        _encode_will(session.will) if session.will is not None else b"",
    )


def restore_session(core: "Core", saved: SavedSession, *, now: float) -> None:
    """Put a saved session into the core, after the log.

    One whose client was connected when the process ended may have got more than it is known to have. One that has
    expired meanwhile is gone, unless its will is still to be published: then nothing but that is left of it.
    """
    log = core.log
    log.head = max(
        log.head, saved.cursor, *(row.since for row in saved.subscriptions), *(row.seq for row in saved.deliveries)
    )
    offset = log.offset
    crashed = not saved.ends_at
    ends_at = now + saved.expiry_s if crashed else saved.ends_at - offset
    if ends_at <= now and not saved.will:
        core.drop_saved(saved.number)
        return
    identity = Identity(Role(saved.role), saved.brand, saved.name, saved.user, saved.store)
    session = Session(core, saved.key, identity, saved.number)
    session.saved = True
    session.v5, session.next_id = saved.v5, saved.next_id
    session.ends_at = ends_at
    if saved.will:
        session.will = _decode_will(saved.will)
        delay = min(session.will.properties.will_delay or 0, max(0.0, ends_at - now))  # [MQTT-3.1.3-9]
        session.will_at = now + max(delay, WILL_GRACE_S)
        session.ends_at = max(ends_at, session.will_at)
    if ends_at <= now:
        core.add(session)
        core.wheel.schedule(session, session.will_at)
        return
    session.expiry_s = saved.expiry_s
    session.cursor = saved.cursor
    session.dup_until = log.head if crashed else saved.dup_until
    session.backlog = core.limits.queue_messages_max  # perhaps; it is counted when that matters
    session.received = dict.fromkeys(saved.received) or None
    if crashed:
        core.changed[session] = None
    _restore_deliveries(core, session, saved)
    core.add(session)
    for row in saved.subscriptions:
        shared = parse_shared(row.name.decode())
        share, filter = (shared[0], shared[1].encode()) if shared else ("", row.name)
        subscription = Subscription(session, filter, row.options, row.id, group_of(identity, share), row.since)
        session.subscriptions = (*session.subscriptions, subscription)
        core.router.subscribe(subscription)
    core.wheel.schedule(session, session.due(now) or session.ends_at)


def _restore_deliveries(core: "Core", session: Session, saved: SavedSession) -> None:
    for row in saved.deliveries:
        if row.state == DONE:
            session.done = session.done or {}
            session.done[row.seq] = (*session.done.get(row.seq, ()), row.packet_id)
            continue
        session.rows = session.rows or {}
        session.rows[row.seq] = (*session.rows.get(row.seq, ()), row.packet_id)
        if row.state == RELEASED:
            session.inflight[row.packet_id] = Message(b"", b"", 2, tracked=True, seq=row.seq)
            continue
        stub = Message(
            b"",
            b"",
            row.qos,
            row.retain,
            subscription_ids=row.subscription_ids,
            tracked=True,
            seq=row.seq,
            absent=True,
            share=row.share,
        )
        core.log.hold(row.seq)
        if row.packet_id:
            session.inflight[row.packet_id] = stub
        else:
            if session.assigned is None:
                session.assigned = deque()
            session.assigned.append(stub)
