"""Settings: four places, one precedence, and no misspelt name that passes in silence."""

from pathlib import Path

import pytest

from broker import limits
from broker.address import Listener
from broker.config import (
    SETTINGS,
    check_anonymous,
    check_socket_path,
    default_data,
    load,
)
from broker.errors import Misconfigured, Refused


def write(data: Path, text: str) -> None:
    (data / "pushbroker.toml").write_text(text, encoding="utf-8")


def test_defaults_come_from_the_limits(tmp_path: Path) -> None:
    settings = load({"data": tmp_path}, environment={})
    assert settings.connections_max == limits.CONNECTIONS_MAX
    assert settings.listen == (Listener("mqtts", "0.0.0.0", 8883),)
    assert settings.admin_path == tmp_path / "admin.sock"
    assert not settings.allow_anonymous
    assert (settings.durability, settings.commit_window_ms) == ("commit", limits.COMMIT_WINDOW_MS)
    assert settings.log_bytes_max == limits.LOG_BYTES_MAX


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    write(tmp_path, 'connections_max = 10\nqueue_messages_max = 20\nsessions_max = 30\nnames = ["a.example"]\n')
    environment = {
        "PUSHBROKER_CONNECTIONS_MAX": "11",
        "PUSHBROKER_QUEUE_MESSAGES_MAX": "21",
        "PUSHBROKER_LISTEN": "mqtt://127.0.0.1:1 mqtts://[::1]:2",
        "PUSHBROKER_ALLOW_ANONYMOUS": "true",
    }
    settings = load({"data": tmp_path, "connections_max": "12", "names": ()}, environment=environment)
    assert settings.connections_max == 12
    assert settings.queue_messages_max == 21
    assert settings.sessions_max == 30
    assert settings.names == ("a.example",)
    assert settings.listen == (Listener("mqtt", "127.0.0.1", 1), Listener("mqtts", "::1", 2))
    assert settings.allow_anonymous is True


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        ("conections_max = 1", "no setting 'conections_max'", "Did you mean 'connections_max'?"),
        ("colour = 1", "no setting 'colour'", "docs/configuration.md"),
        ('data = "/tmp"', "no setting 'data'", ""),
        ("connections_max = 0", "connections_max in", "How many clients"),
        ("connections_max = true", "connections_max in", "integer"),
        ('log_level = "loud"', "log_level in", "debug or info"),
        ('listen = "mqtt://127.0.0.1"', "must be a list", "mqtts://0.0.0.0:8883"),
        ("listen = []", "listen in", ""),
        ('listen = ["http://x"]', "'http://x' is no address", "mqtts://HOST:PORT"),
        ('trust_domain = "Not A Domain"', "trust_domain in", ""),
        ("connections_max = ", "is not TOML", "Correct that line"),
        ('durability = "disk"', "durability in", "commit or memory"),
        ("commit_window_ms = 10001", "commit_window_ms in", "How long a message waits"),
        ("commit_window_ms = -1", "commit_window_ms in", ""),
        ("log_bytes_max = 1000", "log_bytes_max in", "How many bytes of messages"),
        ("amqtt_plugins = 5", "a table for each name", '[amqtt_plugins."amqtt.'),
        ("amqtt_plugins = { a = 5 }", "a table for each name", '[amqtt_plugins."amqtt.'),
    ],
)
def test_a_bad_file_says_what_and_where(tmp_path: Path, text: str, said: str, remedy: str) -> None:
    write(tmp_path, text)
    with pytest.raises(Misconfigured) as raised:
        load({"data": tmp_path}, environment={})
    assert said in raised.value.message
    assert remedy in raised.value.remedy
    assert raised.value.exit_code == 2


def test_tables_are_for_the_file(tmp_path: Path) -> None:
    write(tmp_path, '[amqtt_plugins."a.B"]\nport = 1\n[amqtt_plugins."c.D"]\n')
    settings = load({"data": tmp_path}, environment={})
    assert settings.amqtt_plugins == {"a.B": {"port": 1}, "c.D": {}}
    write(tmp_path, '[amqtt_plugins]\n"a.B" = "hush"\n')
    with pytest.raises(Misconfigured) as raised:
        load({"data": tmp_path}, environment={})
    assert "hush" not in raised.value.message + raised.value.remedy
    with pytest.raises(Misconfigured, match="PUSHBROKER_AMQTT_PLUGINS must hold a table"):
        load({"data": tmp_path}, environment={"PUSHBROKER_AMQTT_PLUGINS": "a.B"})


@pytest.mark.parametrize("name", ["PUSHBROKER_CONNECTIONS_MAX", "PUSHBROKER_ALLOW_ANONYMOUS"])
def test_a_bad_variable_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misconfigured, match=name):
        load({"data": tmp_path}, environment={name: "perhaps"})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no configuration file"):
        load({"data": tmp_path, "config": tmp_path / "other.toml"}, environment={})


def test_anonymous_access_needs_a_second_word_off_loopback(tmp_path: Path) -> None:
    flags = {"data": tmp_path, "allow_anonymous": True, "listen": ("mqtt://127.0.0.1:0", "mqtt://0.0.0.0:0")}
    with pytest.raises(Refused, match=r"anonymous access on mqtt://0\.0\.0\.0:0") as raised:
        check_anonymous(load(flags, environment={}))
    assert "--allow-anonymous-anywhere" in raised.value.remedy
    check_anonymous(load({**flags, "allow_anonymous_anywhere": True}, environment={}))
    check_anonymous(load({**flags, "listen": ("mqtt://127.0.0.1:0",)}, environment={}))
    check_anonymous(load({**flags, "allow_anonymous": None}, environment={}))


def test_every_setting_has_a_sentence_and_a_value_for_its_default() -> None:
    for setting in SETTINGS:
        assert setting.sentence.endswith(".")
        assert setting.environment.startswith("PUSHBROKER_")
        assert setting.flag.startswith("--")
        assert setting.type_name


def test_default_data_directory(tmp_path: Path) -> None:
    assert default_data({"PUSHBROKER_DATA": "/srv/push"}) == Path("/srv/push")
    found = default_data({"XDG_DATA_HOME": str(tmp_path)})
    assert found in (tmp_path / "pushbroker", Path("/var/lib/pushbroker"))


def test_socket_path_bound() -> None:
    check_socket_path(Path("/" + "x" * 106))
    with pytest.raises(Misconfigured, match="107 are allowed"):
        check_socket_path(Path("/" + "x" * 107))


def test_every_setting_is_used() -> None:
    """A setting that nothing reads would be a promise that nobody keeps."""
    from broker.session.bounds import Limits

    sources = (Path(__file__).parents[1] / "broker").rglob("*.py")
    text = "\n".join(path.read_text() for path in sources)
    derived = {"config": "config_path", "admin_socket": "admin_path"}
    for setting in SETTINGS:
        used = f"settings.{derived.get(setting.name, setting.name)}" in text
        used = used or setting.name in Limits.__struct_fields__
        assert used, setting.name
