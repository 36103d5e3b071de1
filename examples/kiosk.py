"""A kiosk on a terminal: enrols itself once, then shows what is sent to it, and does what its operator tells it.

What is typed is asked: the brand answers, or offers choices, of which one is taken by its number; "operator" asks for a
person, whose replies come as any message.

python examples/kiosk.py --url mqtts://localhost:8883 --dir /var/lib/kiosk --ca ca.crt --code XXXXX-XXXXX-XXXXX-XXXXX
python examples/kiosk.py --dir /var/lib/kiosk
"""

import argparse
import signal
import sys
import textwrap
import threading
from contextlib import suppress
from pathlib import Path

from client_sdk import Answer, ConversationEvent, Credentials, Device, Message, NotEnrolled, PushError, Status, enrol

WIDTH = 60


def clean(text: str) -> str:
    """What a person may see of it: nothing that is sent commands the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def box(message: Message) -> str:
    """The message as a person should see it."""
    shown = message.notification
    title = shown.title if shown else ""
    lines = textwrap.wrap(shown.body if shown else message.text, WIDTH)
    if shown and shown.actions:
        lines += ["", "   ".join(f"[ {action.title} ]" for action in shown.actions)]
    rows = [f"│ {clean(line):<{WIDTH}} │" for line in lines]
    top = f"┌─ {clean(title)} " if title else "┌"
    return "\n".join([top.ljust(WIDTH + 3, "─") + "┐", *rows, "└" + "─" * (WIDTH + 2) + "┘"])


def said(answer: Answer) -> str:
    """An answer as a person should see it."""
    if answer.kind == "person" and not answer.text:
        return "(somebody has that)"
    return "\n".join(clean(line) for line in answer.text.splitlines())


def ask(device: Device) -> None:
    """Ask what is typed, until nothing more is."""
    offered: Answer | None = None
    with suppress(PushError):  # then the first question says what is wrong
        device.wait_connected(timeout=30)
    for line in sys.stdin:
        words = line.strip()
        if not words:
            continue
        try:
            number = int(words) if offered and words.isdecimal() else 0
            if offered and 0 < number <= len(offered.choices):
                answer = device.ask(choice=offered.choices[number - 1])
            else:
                answer = device.ask(words)
        except (PushError, ValueError) as error:
            print(error, flush=True)
            continue
        offered = answer if answer.choices else None
        print(said(answer), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="A kiosk on a terminal.")
    parser.add_argument("--url", help="the broker, such as mqtts://push.example.org:8883; needed once")
    parser.add_argument(
        "--dir", "--directory", dest="directory", type=Path, required=True, help="where it keeps its key"
    )
    parser.add_argument("--code", help="the one-time code; needed once")
    parser.add_argument("--ca", type=Path, help="the certificate that vouches for the broker; needed once")
    parser.add_argument("--follow", action="append", default=[], help="a topic of the brand, such as news")
    parser.add_argument("--opt-in", action="append", default=[], help="a topic that its user wants to be sent")
    parser.add_argument("--until", type=int, default=0, metavar="N", help="end after N messages")
    options = parser.parse_args()

    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    signal.signal(signal.SIGINT, lambda *_: done.set())
    seen = 0

    def show(message: Message) -> None:
        nonlocal seen
        for replaced in message.replaces:
            print(f"in place of {replaced}", flush=True)
        print(box(message), flush=True)
        if message.reply:
            device.conversation.read(message.reply.entry)
        message.displayed()  # the broker knows that it was delivered; only we know that it can be seen
        seen += 1
        if seen == options.until:
            done.set()

    def take_off(message_ids: tuple[str, ...], why: str) -> None:
        for message_id in message_ids:
            print(f"taken off the screen: {message_id} ({why})", flush=True)

    def reload(args: dict[str, str]) -> str:
        page = args.get("page", "home")
        print(f"reloaded {clean(page)}", flush=True)
        return f"{page} is shown"

    def display(args: dict[str, str]) -> None:
        print(f"*** {clean(args['text'])} ***", flush=True)  # without a text: KeyError, and the operator is told so

    def configure(config: dict[str, str]) -> None:
        volume = int(config.get("volume", "5"))
        if not 0 <= volume <= 10:
            raise ValueError(f"the volume goes from 0 to 10, not to {volume}")
        print(f"volume {volume}", flush=True)

    def hear(event: ConversationEvent) -> None:
        if event.event == "typing":
            print(f"{clean(event.agent)} is writing ...", flush=True)
        elif event.event == "state":
            who = {"waiting": "you wait for a person", "automated": "the automation answers", "closed": "it is closed"}
            print(f"({clean(who.get(event.state, f'{event.agent} answers'))})", flush=True)

    def tell(status: Status) -> None:
        print("connected" if status.connected else f"offline: {status.error}", flush=True)

    try:
        try:
            credentials = Credentials.load(options.directory)
        except NotEnrolled:
            if not (options.url and options.code):
                parser.error("this directory holds no identity yet: give --url and --code, and --ca")
            credentials = enrol(url=options.url, code=options.code, directory=options.directory, ca=options.ca)
            print(f"enrolled as {credentials.identity}, until {credentials.not_after:%d %B %Y}", flush=True)
        device = Device(credentials, on_message=show, on_withdrawn=take_off, on_status=tell)
        device.on_command("reload", reload)
        device.on_command("message", display)
        device.on_config(configure)
        device.conversation.on_event(hear)
        with device:
            threading.Thread(target=ask, args=(device,), daemon=True).start()
            for topic in options.follow:
                device.follow(topic)
            if options.opt_in:
                device.opt_in(*options.opt_in)
            done.wait()
    except (PushError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}" if error.filename else error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
