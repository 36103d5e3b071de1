"""`pushbroker cert`: the certificates that our CA issues, for those who cannot enrol by themselves."""

from pathlib import Path
from typing import Any

import click

from broker.command.base import Noun, Run, confirm, pass_run, yes_option
from broker.command.files import read_input, write_private, write_public
from broker.command.names import brands
from broker.command.output import print_json, print_list, print_one
from broker.errors import NotFound, Refused

CSR_BYTES_MAX = 16 << 10

command = Noun("cert", help="Certificates of servers, devices and admins, and the CA itself.")
_identity = click.argument("identity")
_csr = click.option(
    "--csr", metavar="FILE", help="A signing request made elsewhere, or - for stdin; prints the certificate."
)
_out = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write NAME.key, NAME.crt and ca.crt here.",
)


def _split(identity: str) -> dict[str, str]:
    """`acme/server/crm` or `admin/root` as the arguments of an operation."""
    match identity.split("/"):
        case [brand, "device" | "server" as role, name]:
            return {"role": role, "brand": brand, "name": name}
        case ["admin", name]:
            return {"role": "admin", "brand": "", "name": name}
        case _:
            raise click.UsageError(
                f"{identity!r} is no identity: write BRAND/server/NAME, BRAND/device/NAME or admin/NAME."
            )


@command.command(
    "issue",
    examples=[
        "pushbroker cert issue acme/server/crm --out /etc/crm",
        "pushbroker cert issue acme/server/crm --csr crm.csr > crm.crt",
        "pushbroker cert issue admin/root --out ~/.pushbroker",
    ],
)
@_identity
@_csr
@_out
@pass_run
def issue(run: Run, identity: str, csr: str | None, out: Path | None) -> None:
    """Issue a certificate for an identity.

    With --out the key is made here, too; with --csr it stays where the request was made.
    """
    target = _split(identity)
    if (csr is None) == (out is None):
        raise click.UsageError("Say where the key is made: --out DIR makes it here, --csr FILE brings a request.")
    if csr is not None:
        _print(run, run.call("cert.issue", **target, csr_pem=read_input(csr, CSR_BYTES_MAX)))
        return
    assert out is not None  # one of the two is given
    key_path = out / f"{target['name']}.key"
    if key_path.exists():
        raise Refused(f"{key_path} is there already", remedy=f"pushbroker cert renew {identity} --out {out}")
    key_pem, csr_pem = _new_key(target["name"])
    issued = run.call("cert.issue", **target, csr_pem=csr_pem)
    write_private(key_path, key_pem)
    _write(run, out, target["name"], issued)


@command.command(
    "renew",
    examples=[
        "pushbroker cert renew acme/server/crm --out /etc/crm",
        "pushbroker cert renew acme/server/crm --csr crm.csr > crm.crt",
    ],
)
@_identity
@_csr
@_out
@pass_run
def renew(run: Run, identity: str, csr: str | None, out: Path | None) -> None:
    """Issue a certificate again, before the old one ends.

    With --out the key that `cert issue --out` wrote there is used again. The old certificate stays valid until
    its own end.
    """
    target = _split(identity)
    if (csr is None) == (out is None):
        raise click.UsageError("Say which key: --out DIR uses the one there, --csr FILE brings a request.")
    if csr is not None:
        _print(run, run.call("cert.renew", **target, csr_pem=read_input(csr, CSR_BYTES_MAX)))
        return
    assert out is not None  # one of the two is given
    key_path = out / f"{target['name']}.key"
    if not key_path.exists():
        raise NotFound(f"there is no key {key_path}", remedy=f"pushbroker cert issue {identity} --out {out}")
    issued = run.call("cert.renew", **target, csr_pem=_request(key_path.read_bytes(), target["name"]))
    _write(run, out, target["name"], issued)


@command.command("list", examples=["pushbroker cert list", "pushbroker cert list acme --json"])
@click.argument("brand", required=False, shell_complete=brands)
@pass_run
def list_(run: Run, brand: str | None) -> None:
    """List the certificates that were issued."""
    found = run.call("cert.list", brand=brand)
    print_list(
        run,
        found,
        ("serial", "identity", "not_after", "revoked_at"),
        empty="There are no certificates: pushbroker cert issue IDENTITY --out DIR",
    )


@command.command("show", examples=["pushbroker cert show 4f3c...", "pushbroker cert show /etc/crm/crm.crt"])
@click.argument("certificate")
@pass_run
def show(run: Run, certificate: str) -> None:
    """Show one certificate: one that was issued, by its serial, or one in a file."""
    if Path(certificate).is_file():
        from broker.command.certificate import describe  # noqa: PLC0415 - cryptography, 90 ms, only where used

        print_one(run, describe(Path(certificate)))
        return
    if "/" in certificate or certificate.endswith((".crt", ".pem")):
        raise NotFound(f"there is no file {certificate}", remedy="pushbroker cert list, for those that were issued")
    print_one(run, _issued(run, certificate))


@command.command("revoke", examples=["pushbroker cert revoke 4f3c...", "pushbroker cert revoke 4f3c... --yes"])
@click.argument("serial")
@yes_option
@pass_run
def revoke(run: Run, serial: str, yes: bool) -> None:
    """Revoke a certificate. Connections that use it end at once."""
    found = _issued(run, serial)
    confirm(f"Revoke certificate {found['serial']} of {found['identity']}?", yes=yes)
    run.call("cert.revoke", serial=serial)
    run.done({"serial": serial, "revoked": True}, f"certificate {serial} revoked")


@command.command("ca", examples=["pushbroker cert ca > ca.crt"])
@pass_run
def ca(run: Run) -> None:
    """Print the CA's certificate, which clients need to trust the broker."""
    found = run.call("cert.ca")
    if run.json:
        print_json(found)
    else:
        click.echo(found["certificate"].rstrip())


def _issued(run: Run, serial: str) -> dict[str, Any]:
    """The certificate with this serial, which may be written as openssl prints it, or `NotFound`."""
    plain = serial.replace(":", "").lower().lstrip("0")
    for issued in run.call("cert.list", brand=None):
        if issued["serial"] == plain:
            return dict(issued)
    raise NotFound(f"there is no certificate {serial!r}", remedy="pushbroker cert list")


def _print(run: Run, issued: dict[str, Any]) -> None:
    if run.json:
        print_json(issued)
        return
    click.echo(issued["certificate_pem"].rstrip())
    run.say(f"valid until {issued['not_after']}")


def _write(run: Run, out: Path, name: str, issued: dict[str, Any]) -> None:
    write_public(out / f"{name}.crt", issued["certificate_pem"].encode())
    write_public(out / "ca.crt", issued["ca_pem"].encode())
    run.done(issued, f"{out}: {name}.key, {name}.crt and ca.crt, valid until {issued['not_after']}")


def _new_key(name: str) -> tuple[bytes, bytes]:
    """A new P-256 key and a signing request for it, both PEM."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - 90 ms, only where used
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, _request(key_pem, name)


def _request(key_pem: bytes, name: str) -> bytes:
    from cryptography import x509  # noqa: PLC0415 - 90 ms, only where used
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError):
        raise Refused("that key cannot be read", remedy="Use a PEM key without a password.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refused("that key is not one of ours", remedy="Make a request with its own tool, and use --csr.")
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)
