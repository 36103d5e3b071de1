"""A brand's server: sends one notification and tells what becomes of it. With --condition it goes through the bridge.

export PUSHBROKER_TOKEN=$(pushbroker brand token issue acme)
python examples/brand_server.py --url mqtts://localhost:8883 --ca ca.crt --user ada --title "Ciao Ada"
python examples/brand_server.py --url mqtts://localhost:8883 --ca ca.crt --condition topic:news --title News --withdraw
"""

import argparse
import asyncio
import sys
from pathlib import Path

from client_sdk import AsyncBrand, AsyncPushed, AsyncSent, PushError, Receipt, SendOptions, To


async def tell(sent: AsyncSent | AsyncPushed, event: str, within_s: float) -> Receipt | None:
    """Print the first receipt for `event`, should it come."""
    receipt = await sent.wait_for(event, timeout=within_s)
    if receipt is None:
        print(f"not {event} within {within_s:.0f} s: it waits, or nobody looks", flush=True)
    else:
        print(f"{event} {receipt.at:%H:%M:%S} on {receipt.device}", flush=True)
    return receipt


async def push(options: argparse.Namespace) -> int:
    async with AsyncBrand(options.url, brand=options.brand, ca=options.ca) as brand:
        to = To(condition=options.condition)
        pushed = await brand.push(to, title=options.title, body=options.body, ttl=options.ttl, receipts="each")
        print(f"accepted as {pushed.message_id}, for {pushed.recipients}", flush=True)
        if pushed.recipients and await tell(pushed, "delivered", options.wait):
            await tell(pushed, "displayed", min(options.wait, 5.0))
        if options.withdraw:
            missed = await brand.withdraw(pushed.message_id)
            print(f"withdrawn before {missed} had it; it leaves the other screens", flush=True)
    return 0


async def send(options: argparse.Namespace) -> int:
    message = SendOptions(title=options.title, body=options.body, ttl=options.ttl)
    if options.user:
        message["to_user"] = options.user
    elif options.device:
        message["to_device"] = options.device
    elif options.store:
        message["to_store"] = options.store
    else:
        message["to_topic"] = options.topic
    async with AsyncBrand(options.url, brand=options.brand, ca=options.ca) as brand:
        sent = await brand.send(**message)
        nobody = ", but nobody is subscribed" if sent.no_subscribers else ""
        print(f"accepted as {sent.message_id}{nobody}", flush=True)
        if nobody or not await tell(sent, "delivered", options.wait):
            return 0
        await tell(sent, "displayed", min(options.wait, 5.0))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Sends one notification and tells what becomes of it.",
        epilog="The token comes from PUSHBROKER_TOKEN: command lines can be read by everyone on the machine.",
    )
    parser.add_argument("--url", required=True, help="the broker, such as mqtts://push.example.org:8883")
    parser.add_argument("--ca", type=Path, help="the certificate that vouches for the broker")
    parser.add_argument("--brand", default="acme")
    receiver = parser.add_mutually_exclusive_group(required=True)
    for kind in ("user", "device", "store", "topic"):
        receiver.add_argument(f"--{kind}")
    receiver.add_argument("--condition", help='such as "topic:news AND store:milano AND NOT tag:staff"')
    parser.add_argument("--withdraw", action="store_true", help="with --condition: take it back at the end")
    parser.add_argument("--title", default="")
    parser.add_argument("--body", default="")
    parser.add_argument("--ttl", type=float, default=3600, help="seconds for which it is of use (an hour)")
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for it to be delivered (a minute)")
    try:
        options = parser.parse_args()
        return asyncio.run(push(options) if options.condition else send(options))
    except (PushError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}" if error.filename else error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
