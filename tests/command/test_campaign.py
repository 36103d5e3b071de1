"""`pushbroker campaign` against a running broker: from a file with a notification to figures in a table."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Done, serving

from broker.command.root import run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A broker with a brand that has four users with a tag."""
    data = tmp_path_factory.mktemp("data")
    with serving("--data", data, "--listen", "mqtt://127.0.0.1:0"):
        for command in ("brand add acme", "segment add acme vips tag:vip"):
            assert run([*command.split(), "--data", str(data)]) == 0
        for user in ("ada", "bob", "cyd", "dan"):
            assert run(["user", "add", "acme", user, "--data", str(data)]) == 0
            assert run(["user", "tag", "acme", user, "vip", "--data", str(data)]) == 0
        for name, title in (("a", "Spring"), ("b", "Primavera")):
            (data / f"{name}.json").write_text(json.dumps({"title": title}))
        yield data


@pytest.fixture
def campaign(data: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Do `pushbroker campaign`."""
    capsys.readouterr()

    def do(*command: object, code: int = 0) -> Done:
        done = run(["campaign", *map(str, command), "--data", str(data)])
        said = capsys.readouterr()
        assert done == code, said.err
        return Done(done, said.out, said.err)

    return do


def test_a_campaign_from_its_file_to_its_figures(data: Path, campaign: Callable[..., Done]) -> None:
    added = campaign("add", "acme", "spring", "--segment", "vips", "--notification", data / "a.json", "--ttl", "1d")
    assert "Next: pushbroker campaign test acme spring" in added.err
    tried = campaign("test", "acme", "spring")
    assert tried.out.splitlines()[1].split()[:4] == ["all", "4", "4", "0"]
    assert "user/ada user/bob user/cyd user/dan" in tried.out
    assert "nothing was sent" in tried.err
    assert "campaign spring of acme is running; it runs at" in campaign("start", "acme", "spring").err

    def lost() -> Any:
        done = run_json(campaign, "figures", "acme", "spring") if runs() else None
        return done and done["figures"][0]["dropped"]

    def runs() -> Any:
        return run_json(campaign, "show", "acme", "spring")["runs"]

    for _ in range(200):  # another process has no event for us; nobody is subscribed, so all of it is dropped
        if lost():
            break
    table = campaign("figures", "acme", "spring", "--by", "store").out.splitlines()
    assert table[0].split()[:4] == ["Store", "Accepted", "Delivered", "In"]
    assert [line.split()[0] for line in table[1:]] == ["all", "(no"]
    rows = list(csv.DictReader(io.StringIO(campaign("figures", "acme", "spring", "--by", "run", "--csv").out)))
    assert [(row["accepted"], row["dropped"], row["delivered_rate"]) for row in rows] == [("4", "4", "0.0")] * 2
    (made,) = runs()
    only = run_json(campaign, "figures", "acme", "spring", "--run", made["at"])
    assert only["figures"][0]["accepted"] == 4
    again = campaign("retarget", "acme", "spring", "--not-opened", "0s", "--notification", data / "b.json")
    assert again.err == "goes again to 0 recipients\n"
    assert again.out.startswith("m")
    assert campaign("stop", "acme", "spring", "--yes").err == "campaign spring of acme is stopped\n"
    campaign("remove", "acme", "spring", "--yes")
    assert run_json(campaign, "list", "acme") == []
    assert run_json(campaign, "figures", "acme", "spring")["figures"][0]["accepted"] == 4


def run_json(campaign: Callable[..., Done], *command: object) -> Any:
    return campaign(*command, "--json").json


def test_what_is_set_changes_and_the_rest_stays(data: Path, campaign: Callable[..., Done]) -> None:
    split = ["--variant", f"a={data / 'a.json'}:30", "--variant", f"b={data / 'b.json'}:70", "--holdout", "10"]
    weekly = ["--cron", "0 9 * * mon", "--zone", "Europe/Rome", "--cap", "1/6d", "--throttle", "200"]
    added = run_json(campaign, "add", "acme", "ab", "--condition", "tag:vip", *split, *weekly)
    definition = added["definition"]
    assert definition["request"] == {
        "to": {"condition": "tag:vip", "cap": {"campaign": "ab", "most": 1, "within_s": 6 * 86400}},
        "throttle_per_s": 200.0,
    }
    assert [(one["name"], one["weight"]) for one in definition["variants"]] == [("a", 30), ("b", 70)]
    assert definition["schedule"] == {"cron": "0 9 * * mon", "zone": "Europe/Rome"}

    changed = run_json(campaign, "set", "acme", "ab", "--segment", "vips", "--at", "2027-01-01T09:00", "--local")
    assert changed["definition"]["request"]["to"] == {
        "segment": "vips",
        "cap": definition["request"]["to"]["cap"],
    }
    assert changed["definition"]["schedule"] == {"at": "2027-01-01T09:00:00", "zone": "Europe/Rome", "local": True}
    assert changed["definition"]["variants"] == definition["variants"]
    now = run_json(campaign, "set", "acme", "ab", "--now", "--cap", "none")
    assert now["definition"]["schedule"] == {"zone": "Europe/Rome"}
    assert "cap" not in now["definition"]["request"]["to"]
    shown = campaign("show", "acme", "ab").out
    assert "a  30  Spring" in shown
    assert "b  70  Primavera" in shown
    campaign("remove", "acme", "ab", "--yes")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["add", "acme", "x", "--notification", "a.json"], 2, "--segment NAME or --condition"),
        (["add", "acme", "x", "--segment", "vips"], 2, "Say what to send"),
        (["add", "acme", "x", "--segment", "vips", "--notification", "a.json", "--file", "b.json"], 2, "in one way"),
        (["add", "acme", "x", "--segment", "vips", "--variant", "A=a.json"], 2, "write a=FILE"),
        (["add", "acme", "x", "--segment", "vips", "--notification", "a.json", "--cap", "7"], 2, "write 1/7d"),
        (["add", "acme", "x", "--segment", "vips", "--notification", "a.json", "--at", "nine"], 2, "2026-11-24T09:00"),
        (["add", "acme", "x", "--segment", "vips", "--notification", "a.json", "--now", "--cron", "9"], 2, "one way"),
        (["add", "acme", "x", "--segment", "vips", "--notification", "a.json", "--cron", "9"], 4, "no cron line"),
        (["add", "acme", "x", "--segment", "nobody", "--notification", "a.json"], 4, "no segment 'nobody'"),
        (["add", "bolt", "x", "--segment", "vips", "--notification", "a.json"], 3, "no brand 'bolt'"),
        (["add", "acme", "-x-", "--segment", "vips", "--notification", "a.json"], 2, "No such option"),
        (["add", "acme", "x y", "--segment", "vips", "--notification", "a.json"], 4, "cannot name a campaign"),
        (["start", "acme", "x"], 3, "no campaign 'x'"),
        (["retarget", "acme", "x", "--not-opened", "1h"], 3, "sent nothing for a campaign 'x'"),
        (["figures", "acme", "x"], 3, "no campaign 'x'"),
    ],
)
def test_what_cannot_be_says_what_to_do(
    data: Path, campaign: Callable[..., Done], command: list[str], code: int, words: str
) -> None:
    given = [str(data / word) if word.endswith(".json") and "=" not in word else word for word in command]
    assert words in campaign(*given, code=code).err
