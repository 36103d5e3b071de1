"""`pushbroker init`: a data directory with a certificate authority, records and a configuration file to edit."""

import textwrap
from typing import TYPE_CHECKING, Any

import click

from broker.command.base import Run, pass_run, standard
from broker.command.files import write_public
from broker.command.output import print_json
from broker.errors import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from broker.config import Settings


@click.command(
    "init",
    **standard(
        examples=[
            "pushbroker init",
            "pushbroker init --data /var/lib/pushbroker --name push.example.com",
        ]
    ),
)
@click.option(
    "--name", "names", multiple=True, metavar="HOST", help="A host name or address of this broker; may be repeated."
)
@click.option(
    "--trust-domain", metavar="DOMAIN", help="The trust domain in the certificates.  [default: pushbroker.local]"
)
@click.option("--listen", multiple=True, metavar="URL", help="An address to listen on; may be repeated.")
@pass_run
def command(run: Run, names: tuple[str, ...], trust_domain: str | None, listen: tuple[str, ...]) -> None:
    """Make a data directory: CA, server certificate, records, configuration.

    What is there already stays as it is, so it can be run again.
    """
    from broker import config  # noqa: PLC0415 - only where used

    flags = {"data": run.data, "names": names, "trust_domain": trust_domain, "listen": listen}
    settings = config.load(flags)
    changes = [name for name in ("names", "trust_domain", "listen") if flags[name]]
    if changes and settings.config_path.exists():
        raise Refused(
            f"{settings.config_path} is there already, and init does not change it",
            remedy=f"Set {', '.join(changes)} there, then reload or restart the broker.",
        )
    made = [str(path) for path in _make(settings, given={name for name, value in flags.items() if value})]
    ca = str(settings.certs_path / "ca.crt")
    if run.json:
        print_json({"data": str(settings.data), "config": str(settings.config_path), "ca": ca, "made": made})
    for path in made:
        run.say(f"made {path}")
    run.say(f"{settings.data} is ready. Next:\n{textwrap.indent(_next_steps(settings, ca), '  ')}")


def _make(settings: "Settings", given: set[str]) -> "list[Path]":
    """Make what is missing; returns the files that were made."""
    import asyncio  # noqa: PLC0415 - only where used

    from broker.admin import direct  # noqa: PLC0415
    from broker.store.lock import DataLock  # noqa: PLC0415

    certificates = (settings.certs_path / name for name in ("ca.crt", "ca.key", "server.crt", "server.key"))
    missing = [path for path in (*certificates, settings.records_path, settings.config_path) if not path.exists()]

    async def make() -> None:
        async with direct.opened(settings):
            pass

    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with DataLock(settings.lock_path):
        asyncio.run(make())
        if settings.config_path in missing:
            write_public(settings.config_path, config_text(settings, given).encode())
    return missing


def _next_steps(settings: "Settings", ca: str) -> str:
    data = f"--data {settings.data}"
    return "\n".join(
        (
            f"pushbroker serve {data}",
            f"pushbroker brand add acme {data}",
            f"pushbroker brand token issue acme {data}     (for the brand's server)",
            f"pushbroker user add acme ada {data}",
            f"pushbroker device code acme kiosk-1 --user ada {data}",
            f"pushbroker doctor {data}",
            f"Clients trust {ca}; everything there is to set stands in {settings.config_path}.",
        )
    )


def config_text(settings: "Settings", given: set[str]) -> str:
    """The configuration file: every setting with its sentence, commented out unless it was given."""
    from broker.config import SETTINGS, toml_text  # noqa: PLC0415 - only where used

    parts = [
        "# pushbroker's settings. Environment variables (PUSHBROKER_CONNECTIONS_MAX) and flags win over this file."
    ]
    for setting in SETTINGS:
        if not setting.in_file:
            continue
        value: Any = getattr(settings, setting.name) if setting.name in given else setting.default
        line = f"{setting.name} = {toml_text(value) if value is not None else chr(34) * 2}"
        sentence = setting.sentence.replace("`", "")
        parts.append(f"\n# {sentence}\n{line if setting.name in given else '# ' + line}")
    return "\n".join(parts) + "\n"
