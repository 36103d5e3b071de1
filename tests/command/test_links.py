"""`pushbroker link`, without a broker and with one, and nothing that shows a password."""

from pathlib import Path

import pytest
from support.cli import Done, pushbroker
from support.mosquitto import Mosquitto
from support.served import Served

MAPPING = "crm/{user} -> acme/user/{user}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    assert pushbroker("init", "--data", tmp_path / "data").code == 0
    assert pushbroker("brand", "add", "acme", "--data", tmp_path / "data").code == 0
    return tmp_path / "data"


def link(data: Path, *args: object, stdin: str = "") -> Done:
    return pushbroker("link", *args, "--data", data, stdin=stdin)


def test_a_link_is_set_up_without_a_broker(data: Path) -> None:
    added = link(
        data,
        "add",
        "acme",
        "crm",
        "mqtt://127.0.0.1",
        "--username",
        "me",
        "--password",
        "--in",
        MAPPING,
        stdin="s3cr3t\n",
    )
    assert (added.code, added.out) == (0, "")
    assert "pushbroker link test acme crm" in added.err
    assert link(data, "set", "acme", "crm", "--out", "acme/topic/{t} -> push/{t}", "--in", "").code == 0
    shown = link(data, "show", "acme", "crm", "--json").json
    assert (shown["inbound"], shown["outbound"]) == ([], ["acme/topic/{t} -> push/{t}"])
    assert (shown["state"], shown["username"], shown["password"]) == ("stopped", "me", True)
    assert shown["client_id"].startswith("pushbroker-acme-crm-")
    assert link(data, "pause", "acme", "crm").code == 0
    listed = link(data, "list").out
    assert "paused" in listed
    assert "s3cr3t" not in str(shown) + listed + added.err
    assert link(data, "remove", "acme", "crm", "--yes").code == 0
    assert link(data, "show", "acme", "crm").code == 3


def test_a_running_broker_shows_how_a_link_stands(tmp_path: Path) -> None:
    theirs = Mosquitto(tmp_path / "mosquitto")
    theirs.start()
    try:
        with Served(tmp_path) as ours:
            ours.command("brand", "add", "acme")
            url = f"mqtt://127.0.0.1:{theirs.plain}"
            added = ours.command("link", "add", "acme", "crm", url, "--username", "wrong", "--in", MAPPING)
            assert added.code == 0
            tested = ours.command("link", "test", "acme", "crm")
            assert tested.code == 1
            assert "does not accept our client id, user name, password or certificate" in tested.err
            assert "try: pushbroker link set acme crm" in tested.err
            ours.ask("link.set", brand="acme", name="crm", username="tester", password="secret")
            tested = ours.command("link", "test", "acme", "crm")
            assert (tested.code, "connected with MQTT 5" in tested.err) == (0, True)
            assert theirs.saw("Sending SUBACK to pushbroker-acme-crm", 2)  # the test's, and the link's
            assert "connected since" in ours.command("link", "list", "acme").out
            assert ours.status["links"] == {"connected": 1, "all": 1}
            assert ours.stop().code == 0
            assert "Received DISCONNECT from pushbroker-acme-crm" in theirs.log
    finally:
        theirs.stop()
