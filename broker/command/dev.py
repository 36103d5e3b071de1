"""`pushbroker dev`: a broker to try things with, gone when it ends."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.command.base import Run, pass_run, standard

if TYPE_CHECKING:
    from broker.app import Broker
    from broker.config import Settings

_BRAND, _USER, _DEVICE = "acme", "ada", "kiosk-1"


@click.command(
    "dev",
    **standard(
        data=False, examples=["pushbroker dev", "pushbroker dev --port 8883 --plain-port 1883", "pushbroker dev --json"]
    ),
)
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="The TLS port.  [default: a free one]")
@click.option(
    "--plain-port", default=0, type=click.IntRange(0, 65535), help="The port without TLS.  [default: a free one]"
)
@click.option("--verbose", is_flag=True, help="Log everything, not only what is wrong.")
@pass_run
def command(run: Run, port: int, plain_port: int, verbose: bool) -> None:
    """Run a throw-away broker with a brand, a user and a device's code.

    It prints lines to copy into other terminals. Ctrl-C ends it and removes its data.
    """
    import asyncio  # noqa: PLC0415 - only where used

    from broker import config  # noqa: PLC0415
    from broker.command import service  # noqa: PLC0415 - the broker's libraries, only where used
    from broker.watch import log, supervisor  # noqa: PLC0415

    log.set_up("debug" if verbose else "warning", "text")
    supervisor.raise_file_limit()
    data = Path(tempfile.mkdtemp(prefix="pushbroker-dev-"))

    def load() -> "Settings":
        listen = (f"mqtts://127.0.0.1:{port}", f"mqtt://127.0.0.1:{plain_port}")
        return config.load({"data": data, "listen": listen}, environment={})

    async def ready(broker: "Broker") -> None:
        made = await _furnish(broker, data)
        if run.json:
            from broker.command.output import print_json  # noqa: PLC0415 - only where used

            print_json(made, indent=0)
        else:
            click.echo(_welcome(made))
        sys.stdout.flush()

    try:
        asyncio.run(service.serve(load(), load=load, ready=ready))
    finally:
        shutil.rmtree(data, ignore_errors=True)
    run.say(f"stopped; {data} is gone")


async def _furnish(broker: "Broker", data: Path) -> dict[str, Any]:
    """A brand with a token, a user, a code for the user's device."""
    directory = broker.directory
    await directory.brand_add(_BRAND, "Acme")
    await directory.user_add(_BRAND, _USER, "Ada")
    token = await directory.token_issue(_BRAND)
    code = await directory.device_code(_BRAND, _DEVICE, user=_USER)
    return {
        "data": str(data),
        "addresses": broker.addresses,
        "ca": str(data / "certs" / "ca.crt"),
        "brand": _BRAND,
        "token": token.secret,
        "user": _USER,
        "device": _DEVICE,
        "code": code.code,
    }


def _welcome(made: dict[str, Any]) -> str:
    tls, plain = (url.rsplit(":", 1)[1] for url in made["addresses"])
    as_brand = f"-u {made['brand']} -P {made['token']}"
    kiosk = Path(made["data"]) / made["device"]
    topic = f"{made['brand']}/user/{made['user']}"

    def heading(words: str) -> str:
        return "\n" + click.style(words, bold=True)

    return "\n".join(
        (
            f"A broker with throw-away data in {made['data']}. Ctrl-C ends it and removes everything.",
            f"  {'  '.join(made['addresses'])}",
            f"  brand {made['brand']}, user {made['user']}, device {made['device']}; CA {made['ca']}",
            heading("Follow all messages"),
            f"  pushbroker tail --data {made['data']}",
            heading(f"Send to {made['user']}"),
            f"  pushbroker send --data {made['data']} {topic} 'Ciao Ada' --title Hello",
            heading("Or with any MQTT client, over TLS or plain"),
            f"  mosquitto_pub -h localhost -p {tls} --cafile {made['ca']} {as_brand} -q 1 -t {topic} -m 'Ciao Ada'",
            f"  mosquitto_pub -h localhost -p {plain} {as_brand} -q 1 -t {topic} -m 'Ciao Ada'",
            heading(f"Enrol {made['device']} (its code is good once)"),
            f"  echo {made['code']} |",
            f"    pushbroker device enrol --url mqtts://localhost:{tls} --ca {made['ca']} --out {kiosk}",
            "",
        )
    )
