"""The settings: each one a field with its bounds and its sentence, read from four places.

Later ones win: the defaults here, a TOML file (DATA/pushbroker.toml or `--config`), environment variables
(`PUSHBROKER_` and the name in capitals), the flags of `pushbroker serve`. A name is the same in all of them, and one
that we do not know is an error: a misspelt bound would otherwise bound nothing.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from broker import limits
from broker.address import Listener, check_unix_path, parse_listen
from broker.errors import Misconfigured, Refused

CONFIG_FILE_NAME: Final = "pushbroker.toml"
ENVIRONMENT_PREFIX: Final = "PUSHBROKER_"


def _says(sentence: str, **bounds: Any) -> msgspec.Meta:
    return msgspec.Meta(description=sentence, **bounds)


def _rate(who_what: str) -> msgspec.Meta:
    return _says(f"{who_what} in a second; 0 is any number.", ge=0, le=1 << 40)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a broker. Units stand last in the names; the defaults of bounds are in `limits.py`."""

    data: Annotated[Path, _says("The directory that holds everything: records, messages, certificates, sockets.")]
    config: Annotated[
        Path | None, _says("The TOML file to read instead of `pushbroker.toml` in the data directory.")
    ] = None
    listen: Annotated[
        tuple[Listener, ...],
        _says(
            "The addresses to listen on: `mqtts://HOST:PORT` (TLS), `mqtt`, `wss`, `ws`, Unix sockets.",
            min_length=1,
        ),
    ] = (Listener("mqtts", "0.0.0.0", 8883),)  # noqa: S104
    allow_anonymous: Annotated[
        bool,
        _says("Let clients in that present nothing, and let them use any topic. For trusted networks and benchmarks."),
    ] = False
    allow_anonymous_anywhere: Annotated[
        bool, _says("Allow `allow_anonymous` on addresses that other machines can reach, too.")
    ] = False
    amqtt_plugins: Annotated[
        dict[str, dict[str, Any]],
        _says("The amqtt authentication and topic plugins to run: for each a table of its options, by its full name."),
    ] = {}
    amqtt_topics: Annotated[
        tuple[str, ...],
        _says("The filters beyond which amqtt plugins cannot let anybody publish or subscribe; `#` opens everything."),
    ] = ()
    amqtt_brands: Annotated[
        tuple[str, ...], _says("The brands whose devices may sign in with what amqtt plugins check.")
    ] = ()
    trust_domain: Annotated[
        str, _says("The trust domain in the SPIFFE URIs of our certificates.", pattern=r"^[a-z0-9._-]{1,255}$")
    ] = "pushbroker.local"
    names: Annotated[
        tuple[str, ...],
        _says("More host names and addresses for the server certificate, besides this machine's own name."),
    ] = ()
    admin_socket: Annotated[
        Path | None,
        _says("The Unix socket through which the commands reach a running broker; `admin.sock` in the data directory."),
    ] = None
    pid_file: Annotated[Path | None, _says("A file to write the process id to, for supervisors that want one.")] = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _says("The least urgent events to log.")] = (
        "info"
    )
    log_format: Annotated[
        Literal["text", "json"], _says("How the log on stderr is written: text for people, JSON lines for programs.")
    ] = "text"
    durability: Annotated[
        Literal["commit", "memory"],
        _says(
            "When a publish at QoS 1 or 2 is acknowledged: `commit`, once all receivers have it or it is on the disk; "
            "`memory`, at once."
        ),
    ] = "commit"
    commit_window_ms: Annotated[
        int,
        _says("How long a message waits for receivers who are online before it is written to disk.", ge=0, le=10_000),
    ] = limits.COMMIT_WINDOW_MS
    log_bytes_max: Annotated[
        int, _says("How many bytes of messages may wait on the disk, for all sessions.", ge=1 << 20, le=1 << 50)
    ] = limits.LOG_BYTES_MAX
    connections_max: Annotated[int, _says("How many clients may be connected at a time.", ge=1, le=10_000_000)] = (
        limits.CONNECTIONS_MAX
    )
    sessions_max: Annotated[int, _says("How many sessions are kept, connected or not.", ge=1, le=100_000_000)] = (
        limits.SESSIONS_MAX
    )
    packet_bytes_max: Annotated[int, _says("The largest packet that a client may send.", ge=1024, le=268_435_460)] = (
        limits.PACKET_BYTES_MAX
    )
    queue_messages_max: Annotated[int, _says("How many messages may wait for one session.", ge=1, le=10_000_000)] = (
        limits.QUEUE_MESSAGES_MAX
    )
    queue_bytes_max: Annotated[
        int, _says("How many bytes of messages may wait for one session.", ge=1024, le=1 << 40)
    ] = limits.QUEUE_BYTES_MAX
    session_expiry_max_s: Annotated[
        int,
        _says(
            "How long a session may outlive its connection; clients that ask for more get this.", ge=0, le=0xFFFFFFFE
        ),
    ] = limits.SESSION_EXPIRY_MAX_S
    messages_kept_s: Annotated[
        int,
        _says("How long what became of a rich send is kept, from when it was accepted.", ge=3600, le=10 * 365 * 86400),
    ] = limits.MESSAGES_KEPT_S
    conversations_kept_s: Annotated[
        int, _says("How long a conversation is kept after it was closed.", ge=3600, le=10 * 365 * 86400)
    ] = limits.CONVERSATIONS_KEPT_S
    questions_kept_s: Annotated[
        int,
        _says("How long the words of a question and its answer are kept; figures stay.", ge=3600, le=10 * 365 * 86400),
    ] = limits.QUESTIONS_KEPT_S
    consents_kept_s: Annotated[
        int,
        _says("How long a consent stands in its log that counts no more.", ge=3600, le=30 * 365 * 86400),
    ] = limits.CONSENTS_KEPT_S
    audit_kept_s: Annotated[int, _says("How long an entry of the audit log is kept.", ge=3600, le=30 * 365 * 86400)] = (
        limits.AUDIT_KEPT_S
    )
    retained_messages_max: Annotated[int, _says("How many retained messages are kept.", ge=0, le=100_000_000)] = (
        limits.RETAINED_MESSAGES_MAX
    )
    retained_bytes_max: Annotated[int, _says("How many bytes of retained messages are kept.", ge=0, le=1 << 40)] = (
        limits.RETAINED_BYTES_MAX
    )
    retained_messages_of_brand_max: Annotated[
        int, _says("How many retained messages are kept of one brand.", ge=0, le=100_000_000)
    ] = limits.RETAINED_MESSAGES_OF_BRAND_MAX
    retained_bytes_of_brand_max: Annotated[
        int, _says("How many bytes of retained messages are kept of one brand.", ge=0, le=1 << 40)
    ] = limits.RETAINED_BYTES_OF_BRAND_MAX
    device_connects_per_s: Annotated[int, _rate("How often one device may connect")] = limits.DEVICE_CONNECTS_PER_S
    device_messages_per_s: Annotated[int, _rate("How many messages one device may send")] = limits.DEVICE_MESSAGES_PER_S
    device_bytes_per_s: Annotated[int, _rate("How many bytes one device may send")] = limits.DEVICE_BYTES_PER_S
    server_connects_per_s: Annotated[int, _rate("How often one server of a brand may connect")] = (
        limits.SERVER_CONNECTS_PER_S
    )
    server_messages_per_s: Annotated[int, _rate("How many messages one server of a brand may send")] = (
        limits.SERVER_MESSAGES_PER_S
    )
    server_bytes_per_s: Annotated[int, _rate("How many bytes one server of a brand may send")] = (
        limits.SERVER_BYTES_PER_S
    )
    address_connects_per_s: Annotated[int, _rate("How often one network address may connect")] = (
        limits.ADDRESS_CONNECTS_PER_S
    )
    overload_lag_ms: Annotated[
        int, _says("How late the broker may be with its work before it lets nobody new in.", ge=10, le=60_000)
    ] = limits.OVERLOAD_LAG_MS

    @property
    def config_path(self) -> Path:
        """Where the TOML file is, if there is one."""
        return self.config or self.data / CONFIG_FILE_NAME

    @property
    def admin_path(self) -> Path:
        """Where the admin socket is."""
        return self.admin_socket or self.data / "admin.sock"

    @property
    def lock_path(self) -> Path:
        """Whoever works on the data directory holds an exclusive flock on this file."""
        return self.data / "lock"

    @property
    def certs_path(self) -> Path:
        """The CA, the server's certificate and their keys."""
        return self.data / "certs"

    @property
    def records_path(self) -> Path:
        """Brands, users, stores, devices and their secrets."""
        return self.data / "records.db"

    @property
    def journal_path(self) -> Path:
        """Sessions, and the messages that wait for them."""
        return self.data / "journal.db"

    @property
    def messages_path(self) -> Path:
        """What was sent through the bridge, and what became of it."""
        return self.data / "messages.db"

    @property
    def content_path(self) -> Path:
        """What brands have to say to who asks."""
        return self.data / "content.db"


class Setting(msgspec.Struct, frozen=True):
    """One row of the table of settings: what the flags, the documents and the tests are made from."""

    name: str
    annotation: Any
    default: Any
    sentence: str

    @property
    def environment(self) -> str:
        """The environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The flag of `pushbroker serve`."""
        return "--" + self.name.replace("_", "-")

    @property
    def in_file(self) -> bool:
        """Whether the TOML file may have it: not what says where that file is."""
        return self.name not in ("data", "config")

    @property
    def only_in_file(self) -> bool:
        """Whether it is a table of tables, which no environment variable and no flag can be."""
        return get_origin(self.bare) is dict

    @property
    def many(self) -> bool:
        """Whether it is a list: its flag may be repeated."""
        return get_origin(self.bare) is tuple

    @property
    def bare(self) -> Any:
        """The type without its bounds and sentence."""
        return get_args(self.annotation)[0]

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it may have, where they are few."""
        return get_args(self.bare) if get_origin(self.bare) is Literal else ()

    @property
    def type_name(self) -> str:
        """The type in a reader's words."""
        if self.choices:
            return " or ".join(f"`{choice}`" for choice in self.choices)
        names = {bool: "true or false", int: "integer", str: "text", tuple[str, ...]: "list of texts"}
        return names.get(self.bare, "tables" if self.only_in_file else "list of URLs" if self.many else "path")

    @property
    def default_text(self) -> str:
        """The default as it would stand in the TOML file; '' where there is none."""
        return "" if self.default in (None, msgspec.NODEFAULT) else toml_text(self.default)


def toml_text(value: Any) -> str:
    """A setting's value in TOML."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case dict():
            return "{}"  # nobody gives one but in a file
        case tuple():
            return "[" + ", ".join(toml_text(item) for item in value) + "]"
        case Listener():
            return f'"{value.url}"'
        case _:
            return msgspec.json.encode(str(value)).decode()  # a TOML basic string has JSON's escapes


def _table() -> tuple[Setting, ...]:
    hints = get_type_hints(Settings, include_extras=True)
    return tuple(
        Setting(
            field.name,
            hints[field.name],
            field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory(),
            get_args(hints[field.name])[1].description or "",
        )
        for field in msgspec.structs.fields(Settings)
    )


SETTINGS: Final = _table()
_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


def default_data(environment: Mapping[str, str] = os.environ) -> Path:
    """$PUSHBROKER_DATA, else /var/lib/pushbroker where it exists, else a directory in the user's home."""
    if given := environment.get(ENVIRONMENT_PREFIX + "DATA"):
        return Path(given)
    system = Path("/var/lib/pushbroker")
    if os.path.lexists(system):  # it may be a link into a directory that we may not enter (systemd's DynamicUser)
        return system
    return Path(environment.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "pushbroker"


def load(
    flags: Mapping[str, Any] | None = None, *, environment: Mapping[str, str] = os.environ, visitor: bool = False
) -> Settings:
    """The settings from all four places. `flags` holds what was given on the command line, by setting name.

    A `visitor` only wants to find a running broker: it may do without a file that it may not read.

    Raises `Misconfigured` for anything unknown, unreadable or out of bounds, naming the place where it stands.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None and value != ()}
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.name in given:
            values[setting.name] = _value(setting, given[setting.name], setting.flag)
        elif text := environment.get(setting.environment, ""):
            values[setting.name] = _value(setting, _split(text) if setting.many else text, setting.environment)
    values.setdefault("data", default_data(environment))
    config = values.get("config")
    path = config or values["data"] / CONFIG_FILE_NAME
    if not (visitor and config is None and _forbidden(path)):
        for name, value in _read(path, required=config is not None).items():
            values.setdefault(name, value)
    return Settings(**values)


def check_anonymous(settings: Settings) -> None:
    """Raise `Refused` when anonymous access would be open to other machines and nobody said that it may be."""
    if not settings.allow_anonymous or settings.allow_anonymous_anywhere:
        return
    for listener in settings.listen:
        if not listener.loopback:
            raise Refused(
                f"anonymous access on {listener.address} would let anyone who reaches it read and send everything",
                remedy="Listen on 127.0.0.1 only, or add --allow-anonymous-anywhere when the network is trusted.",
            )


def _forbidden(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK)


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    """The values in a TOML file, checked; none when the file may be missing and is."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise Misconfigured(
                f"there is no configuration file {path}", remedy="Name one that exists, or none."
            ) from None
        return {}
    except OSError as error:
        raise Misconfigured(
            f"cannot read {path}: {error.strerror}", remedy="Run as the user that the broker runs as, or with sudo."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"{path} is not TOML: {error}", remedy="Correct that line: https://toml.io says how."
        ) from None
    known = [setting.name for setting in SETTINGS if setting.in_file]
    for name in document:
        if name not in known:
            raise Misconfigured(f"{path}: there is no setting {name!r}", remedy=_suggestion(name, known))
    return {name: _value(_BY_NAME[name], value, f"{name} in {path}") for name, value in document.items()}


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else "docs/configuration.md lists them all."


def _value(setting: Setting, raw: Any, source: str) -> Any:
    """`raw` as the setting's type, or `Misconfigured` naming `source`."""
    if setting.name == "listen":
        if not isinstance(raw, list | tuple) or not all(isinstance(url, str) for url in raw):
            raise Misconfigured(f"{source} must be a list of URLs", remedy=f"Write {toml_text(setting.default)}.")
        raw = [parse_listen(url) for url in raw]
    elif isinstance(raw, Path):
        raw = str(raw)
    try:
        if setting.only_in_file:
            return _tables(raw, source)
        if setting.type_name == "path":
            text = msgspec.convert(raw, Annotated[str, msgspec.Meta(min_length=1)])
            return Path(text).expanduser().absolute()
        value = msgspec.convert(raw, setting.annotation, strict=not isinstance(raw, str))
    except msgspec.ValidationError as error:
        wanted = str(error).split(" - at ")[0].replace("`", "")
        bound = "" if ", got " in wanted else f": {wanted[:1].lower()}{wanted[1:]}"  # of a wrong type says the remedy
        raise Misconfigured(
            f"{source} cannot be {raw!r}{bound}",
            remedy=f"{setting.name}: {setting.sentence} ({setting.type_name.replace('`', '')})",
        ) from None
    return value


def _tables(raw: Any, source: str) -> dict[str, dict[str, Any]]:
    """A table of tables. What is said of any other does not show it: there may be secrets in it."""
    if not isinstance(raw, dict) or not all(isinstance(table, dict) for table in raw.values()):
        raise Misconfigured(
            f"{source} must hold a table for each name",
            remedy='Write [amqtt_plugins."amqtt.plugins.authentication.FileAuthPlugin"] in the file, options below it.',
        )
    return raw


def _split(text: str) -> list[str]:
    return text.replace(",", " ").split()


def check_socket_path(path: Path) -> None:
    """Raise `Misconfigured` for an admin socket's path that no Unix socket can have."""
    check_unix_path(path, "Name a shorter one with PUSHBROKER_ADMIN_SOCKET, such as /run/pushbroker/admin.sock.")
