"""`pushbroker send`: a message to a user, a device, a store or a topic, through the running broker."""

import json
import os
import time
from typing import Any

import click

from broker import limits
from broker.command.base import Duration, Run, counted, pass_run, standard
from broker.command.files import read_input
from broker.command.output import print_json
from broker.command.tail import RICH_CONTENT_TYPE
from broker.errors import Failed

_DEFAULT_WAIT_S = 10


@click.command(
    "send",
    **standard(
        examples=[
            'pushbroker send acme/user/ada "Ciao Ada"',
            'pushbroker send acme/store/milano "Doors close in ten minutes" --title "Closing" --ttl 10m',
            "pushbroker send acme/device/kiosk-7 --file offer.png --content-type image/png",
            "pushbroker send acme/topic/news --json-body notification.json",
            'pushbroker send acme/user/ada "Your table is ready" --wait 30s',
            "date | pushbroker send acme/topic/clock -",
        ]
    ),
)
@click.argument("topic")
@click.argument("text", required=False)
@click.option("--title", help="Send a rich notification with this title; the text is its body.")
@click.option("--json-body", metavar="FILE", help="Send the rich notification that is in this file, or - for stdin.")
@click.option("--file", metavar="FILE", help="Send the bytes of this file, or - for stdin.")
@click.option("--content-type", metavar="TYPE", help="What the content is.")
@click.option("--property", "properties", multiple=True, metavar="NAME=VALUE", help="A user property; may be repeated.")
@click.option("--ttl", type=Duration(), help="How long it is worth delivering: 90s, 15m, 1h, 7d.")
@click.option("--qos", type=click.IntRange(0, 2), default=1, show_default=True, help="The quality of service.")
@click.option("--receipt", is_flag=True, help="Ask for receipts; they go to BRAND/receipts/MESSAGE-ID.")
@click.option(
    "--wait",
    type=Duration(),
    is_flag=False,
    flag_value=_DEFAULT_WAIT_S,
    help=f"Wait so long ({_DEFAULT_WAIT_S}s) until all who are subscribed have it; exit 1 when not all have.",
)
@pass_run
def command(
    run: Run,
    topic: str,
    text: str | None,
    title: str | None,
    json_body: str | None,
    file: str | None,
    content_type: str | None,
    properties: tuple[str, ...],
    ttl: int | None,
    qos: int,
    receipt: bool,
    wait: int | None,
) -> None:
    """Send a message and print its id.

    TOPIC says to whom: BRAND/user/NAME, BRAND/device/NAME, BRAND/store/NAME or BRAND/topic/NAME. TEXT is sent as it
    is; - takes it from stdin.
    """
    payload, natural_type = _content(text, title, json_body, file)
    user_properties = [_property(given) for given in properties]
    if receipt or wait is not None:
        if qos == 0:
            raise click.UsageError("QoS 0 has no receipts: leave out --qos 0, or --receipt and --wait.")
        user_properties.append(("receipt", "delivered"))
    message: dict[str, Any] = {
        "topic": topic,
        "payload": payload,
        "qos": qos,
        "ttl_s": ttl,
        "content_type": content_type or natural_type,
        "user_properties": user_properties,
    }
    sent = run.call("send", **message) if wait is None else _send_and_wait(run, message, wait)
    if run.json:
        print_json(sent)
    elif sent.get("message_id"):
        click.echo(sent["message_id"])
    if sent["recipients"]:
        run.say(f"accepted for {counted(sent['recipients'], 'recipient')}")
    elif wait is None:
        run.say(f"accepted, but nobody is subscribed to {topic}\n  try: {_why_nobody(topic)}")
    else:
        raise Failed(f"nobody is subscribed to {topic}, so nobody has it", remedy=_why_nobody(topic))
    if wait is not None and len(sent["receipts"]) < sent["recipients"]:
        got = len(sent["receipts"])
        raise Failed(
            f"delivered to {got} of {sent['recipients']} within {wait} s; the others may get it later",
            remedy=f"pushbroker tail '{topic.split('/', maxsplit=1)[0]}/receipts/{sent['message_id']}'",
        )


def _why_nobody(topic: str) -> str:
    """What to look at when a message was for nobody."""
    match topic.split("/"):
        case [brand, "user", user]:
            return f"pushbroker user show {brand} {user}; pushbroker device list {brand} --user {user}"
        case [brand, "store", store]:
            return f"pushbroker store show {brand} {store}; pushbroker device list {brand} --store {store}"
        case [brand, "device", device]:
            return f"pushbroker device show {brand} {device}"
        case [brand, "topic", _]:
            return f"pushbroker device list {brand}; a device gets a topic once it follows it"
        case _:
            return "devices get BRAND/user/NAME, BRAND/device/NAME, BRAND/store/NAME and BRAND/topic/NAME"


def _content(text: str | None, title: str | None, json_body: str | None, file: str | None) -> tuple[bytes, str | None]:
    """The payload and the content type that follows from how it was given."""
    if sum(source is not None for source in (text, json_body, file)) != 1 and not (title is not None and text is None):
        raise click.UsageError("Say what to send, in one way: TEXT, --title, --json-body FILE or --file FILE.")
    if file is not None or json_body is not None:
        if title is not None:
            raise click.UsageError("--title goes with TEXT; put it into the file instead.")
        content = read_input(file or json_body or "-", limits.PACKET_BYTES_MAX)
        if file is not None:
            return content, None
        checked_notification(content)
        return content, RICH_CONTENT_TYPE
    body = read_input("-", limits.PACKET_BYTES_MAX) if text == "-" else os.fsencode(text or "")
    if title is None:
        return body, "text/plain" if text != "-" else None
    try:
        rich = {"title": title} | ({"body": body.decode()} if text is not None else {})
        return json.dumps(rich, ensure_ascii=False).encode(), RICH_CONTENT_TYPE
    except UnicodeError:
        raise click.UsageError("A notification's title and body are UTF-8 text.") from None


def checked_notification(content: bytes) -> dict[str, Any]:
    """A rich notification must be a JSON object: better said here than by each device."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"That notification is no JSON: {error}") from None
    if not isinstance(value, dict) or not (value.get("title") or value.get("body")):
        raise click.UsageError("A notification is a JSON object with a title or a body.")
    return value


def _property(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not (name and equals):
        raise click.UsageError(f"{given!r} is no property: write NAME=VALUE.")
    return name, value


def _send_and_wait(run: Run, message: dict[str, Any], wait_s: int) -> dict[str, Any]:
    """Send, and gather the delivered receipts until there is one from each recipient or time is up."""
    receipts = run.stream("tail", filters=[f"{message['topic'].split('/')[0]}/receipts/+"])
    sent: dict[str, Any] = run.call("send", **message)
    sent["receipts"] = []
    deadline = time.monotonic() + wait_s
    try:
        while len(sent["receipts"]) < sent["recipients"]:
            found = receipts.next_within(max(deadline - time.monotonic(), 0.001))
            body = json.loads(found["payload"])
            if body.get("message_id") == sent["message_id"] and body.get("event") == "delivered":
                sent["receipts"].append(body)
                run.say(f"delivered to {body['device']} at {body['at']}")
    except TimeoutError:
        pass
    finally:
        receipts.close()
    return sent
