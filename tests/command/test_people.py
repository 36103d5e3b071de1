"""What is said of users and devices, and how they are found: the commands, in this process and without a broker."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Done

from broker.command.root import run


def make(data: Path) -> Path:
    for command in ("init", "brand add acme", "user add acme ada", "device code acme till-1"):
        assert run([*command.split(), "--data", str(data)]) == 0
    return data


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Who is not changed by what is refused."""
    return make(tmp_path_factory.mktemp("refused"))


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Do a command on a directory of its own."""
    make(tmp_path)
    capsys.readouterr()

    def do(*command: str, code: int = 0) -> Done:
        done = run([*command, "--data", str(tmp_path)])
        said = capsys.readouterr()
        assert done == code, said.err
        return Done(done, said.out, said.err)

    return do


def test_what_is_said_of_a_user_is_shown(cli: Callable[..., Done]) -> None:
    assert cli("user", "tag", "acme", "ada", "vip", "staff").err == "user ada of acme: staff, vip\n"
    cli("user", "untag", "acme", "ada", "staff")
    cli("user", "set", "acme", "ada", "city=Milano", "note=a=b")
    cli("user", "unset", "acme", "ada", "none")
    cli("user", "opt-in", "acme", "ada", "news", "offers", "--source", "brand")
    cli("user", "opt-out", "acme", "ada", "offers")
    cli("user", "preferences", "acme", "ada", "--quiet-hours", "22:00-08:00", "--time-zone", "Europe/Rome")
    cli("user", "preferences", "acme", "ada", "--locale", "it", "--time-zone", "")
    cli("user", "suppress", "acme", "ada", "--reason", "complaint 7", "--for", "14d")

    shown = cli("user", "show", "acme", "ada", "--json").json
    assert (shown["tags"], shown["attributes"]) == (["vip"], {"city": "Milano", "note": "a=b"})
    assert shown["preferences"] == {
        "quiet_hours": {"from": "22:00", "until": "08:00"},
        "time_zone": "",
        "locale": "it",
    }
    assert [(one["topic"], one["state"], one["source"]) for one in shown["topics"]] == [
        ("news", "in", "brand"),
        ("offers", "out", "operator"),
    ]
    assert shown["suppressed"]["reason"] == "complaint 7"
    text = cli("user", "show", "acme", "ada").out
    assert "22:00 to 08:00" in text
    assert "complaint 7" in text
    assert "(brand)" in text
    log = cli("user", "consents", "acme", "ada", "--json").json
    assert [(one["topic"], one["state"]) for one in log] == [("news", "in"), ("offers", "in"), ("offers", "out")]
    (suppressed,) = cli("user", "suppressed", "acme", "--json").json
    assert suppressed["user"] == "ada"
    assert cli("user", "unsuppress", "acme", "ada", "--json").json["was_suppressed"] is True
    assert cli("user", "suppressed", "acme", "--json").json == []
    cleared = cli("user", "preferences", "acme", "ada", "--quiet-hours", "", "--json").json
    assert cleared["quiet_hours"] is None
    assert cli("user", "preferences", "acme", "ada").out == "locale  it\n"


def test_what_a_user_follows_is_kept_and_shown(cli: Callable[..., Done], tmp_path: Path) -> None:
    content = tmp_path / "content.json"
    content.write_text('[{"name": "wipro", "title": "Wipro"}, {"name": "cakes", "title": "Cakes"}]')
    cli("content", "import", "acme", str(content))
    said = cli("user", "follow", "acme", "ada", "wipro", "--every", "1h", "--source", "brand").err
    assert said == "user ada of acme follows wipro, at most once in 3600 s\n"
    cli("user", "follow", "acme", "ada", "cakes")
    assert cli("user", "preferences", "acme", "ada", "--json").json["follows"] == {"cakes": 0, "wipro": 3600}
    text = cli("user", "preferences", "acme", "ada").out
    assert "wipro  at most once in 3600 s (brand)" in text
    assert "cakes  each change (operator)" in text
    missed = cli("user", "follow", "acme", "ada", "wipri", code=3).err
    assert missed.startswith(
        "error: acme has no item 'wipri'\n  try: Did you mean 'wipro'? pushbroker content list acme"
    )
    assert "acme has no user 'bob'" in cli("user", "follow", "acme", "bob", "wipri", code=3).err
    cli("content", "remove", "acme", "wipro", "--yes")
    cli("user", "follow", "acme", "ada", "wipro", "--every", "2h")  # it may come back: they follow it still
    cli("user", "unfollow", "acme", "ada", "wipro")
    log = cli("user", "consents", "acme", "ada", "--json").json
    said_of_wipro = [(one["state"], one["source"]) for one in log if one["topic"] == "item/wipro"]
    assert said_of_wipro == [("in", "brand"), ("out", "operator")]
    cli("user", "unfollow", "acme", "ada", "cakes")


def test_of_whom_nothing_is_known_there_is_nothing_to_erase(cli: Callable[..., Done]) -> None:
    done = cli("user", "erase", "acme", "nobody-yet", "--dry-run")
    assert (done.out, done.err) == ("", "nothing is known of nobody-yet: pushbroker user list acme\n")
    cli("user", "show", "acme", "aba", code=3)  # the audit log knows that name now
    done = cli("user", "erase", "acme", "aba", "--dry-run")
    assert done.err == "acme has no user 'aba' (any more): this is what is left of them\n"
    assert not cli("user", "erase", "acme", "ada", "--dry-run").err


def test_where_an_export_cannot_be_written_that_is_said(cli: Callable[..., Done], tmp_path: Path) -> None:
    said = cli("user", "export", "acme", "ada", "--output", str(tmp_path / "none" / "ada.json"), code=1).err
    assert said.splitlines() == [
        f"error: cannot write {tmp_path}/none/ada.json: No such file or directory",
        "  try: Name a file in a folder that is there.",
    ]


def test_devices_have_tags_and_attributes_too(cli: Callable[..., Done]) -> None:
    cli("device", "tag", "acme", "till-1", "front")
    cli("device", "set", "acme", "till-1", "floor=2")
    shown = cli("device", "show", "acme", "till-1", "--json").json
    assert (shown["tags"], shown["attributes"], shown["state"]) == (["front"], {"floor": "2"}, "pending")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("user", "tag", "acme", "bob", "vip"), 3, "acme has no user 'bob'"),
        (("user", "tag", "acme", "ada", "a/b"), 4, "cannot name a tag"),
        (("user", "tag", "acme", "ada", *(f"t{n}" for n in range(65))), 4, "more than 64 tags"),
        (("device", "set", "acme", "till-1", *(f"k{n}=x" for n in range(65))), 4, "more than 64 attributes"),
        (("user", "set", "acme", "ada", "city"), 2, "write KEY=VALUE"),
        (("user", "set", "acme", "ada", "city="), 4, "cannot be the value of city"),
        (("user", "opt-in", "acme", "ada", "+"), 4, "cannot name a topic"),
        (("user", "opt-in", "acme", "ada", *(f"t{n}" for n in range(101))), 4, "more than 100 topics"),
        (("user", "follow", "acme", "ada", "a/b"), 4, "cannot name an item"),
        (("user", "follow", "acme", "ada", "wipro", "--every", "15d"), 4, "too short or too long"),
        (("user", "preferences", "acme", "ada", "--quiet-hours", "22"), 2, "write 22:00-08:00"),
        (("user", "preferences", "acme", "ada", "--quiet-hours", "22-8"), 4, "'22' is no time of the day"),
        (("user", "preferences", "acme", "ada", "--quiet-hours", "08:00-08:00"), 4, "end when they begin"),
        (("user", "preferences", "acme", "ada", "--time-zone", "Mars/North"), 4, "there is no time zone"),
        (("user", "preferences", "acme", "ada", "--locale", "it it"), 4, "is no locale"),
        (("user", "suppress", "acme", "ada", "--reason", ""), 4, "cannot be a reason"),
        (("segment", "add", "acme", "a/b", "tag:vip"), 4, "cannot name a segment"),
        (("segment", "add", "acme", "s", "tag:vip AND"), 4, "at character 12: expected a term"),
        (("segment", "add", "acme", "s", "NOT user:bob"), 4, "at character 5: acme has no user 'bob'"),
        (("segment", "add", "acme", "s", "tag:vip OR segment:s"), 4, "refers to itself: s -> s"),
        (("segment", "test", "acme", "none"), 3, "acme has no segment 'none'"),
        (("segment", "test", "acme", "--condition", "tag"), 4, "at character 1"),
        (("segment", "test", "acme"), 2, "Name a segment"),
        (("brand", "restraint", "set", "acme", "--cap", "many"), 2, "is no cap"),
        (("brand", "restraint", "set", "acme", "--cap", "0/day"), 4, "a cap of 0"),
        (("brand", "restraint", "set", "acme", *["--cap", "1/day"] * 9), 4, "more than 8 caps"),
        (("brand", "restraint", "set", "acme", "--quiet-hours", "25:00-08:00"), 4, "is no time of the day"),
        (("brand", "restraint", "set", "acme"), 2, "Say what is to change"),
        (("brand", "restraint", "show", "bolt"), 3, "there is no brand"),
    ],
)
def test_what_is_refused(
    acme: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], code: int, words: str
) -> None:
    assert run([*command, "--data", str(acme)]) == code
    assert words in capsys.readouterr().err


def test_segments(cli: Callable[..., Done]) -> None:
    cli("user", "tag", "acme", "ada", "vip")
    cli("device", "tag", "acme", "till-1", "vip")
    cli("segment", "add", "acme", "best", "tag:vip", "--title", "Our best")
    cli("segment", "add", "acme", "news", "segment:best AND topic:news")
    cli("segment", "add", "acme", "best", "tag:staff", code=4)
    assert [one["name"] for one in cli("segment", "list", "--json").json] == ["best", "news"]

    tested = cli("segment", "test", "acme", "best")
    assert (tested.out, tested.err) == ("user/ada\ndevice/till-1\n", "1 user and 1 device of nobody\n")
    cli("user", "suppress", "acme", "ada", "--reason", "x")
    assert cli("segment", "test", "acme", "--condition", "tag:vip AND NOT tag:staff", "--json").json == {
        "users": 0,
        "devices": 1,
        "left_out": {"suppressed": 1},
        "first": ["device/till-1"],
    }
    explained = cli("segment", "test", "acme", "news", "--user", "ada", "--json").json
    assert explained == {"tag:vip": True, "topic:news": False}

    assert "segment news refers to it" in cli("segment", "remove", "acme", "best", "--yes", code=4).err
    cli("segment", "add", "acme", "news", "topic:news", "--replace")
    cli("segment", "remove", "acme", "best", "--yes")
    cli("segment", "show", "acme", "best", code=3)
    cli("segment", "remove", "acme", "best", code=3)
    assert cli("segment", "show", "acme", "news", "--json").json["condition"] == "topic:news"


def test_restraint(cli: Callable[..., Done]) -> None:
    assert "none" in cli("brand", "restraint", "show", "acme").out
    cli("brand", "restraint", "set", "acme", "--quiet-hours", "22:00-08:00", "--time-zone", "Europe/Rome")
    cli("brand", "restraint", "set", "acme", "--cap", "3/day", "--cap", "transactional:20/4h")
    assert cli("brand", "restraint", "show", "acme", "--json").json == {
        "quiet_hours": {"from": "22:00", "until": "08:00"},
        "time_zone": "Europe/Rome",
        "quiet_kinds": ["marketing"],
        "caps": [
            {"max": 3, "per_s": None, "kind": "marketing"},
            {"max": 20, "per_s": 14400, "kind": "transactional"},
        ],
    }
    shown = cli("brand", "restraint", "show", "acme").out
    assert "22:00 to 08:00" in shown
    assert "3 marketing in a day" in shown
    changed = cli(
        "brand", "restraint", "set", "acme", "--cap", "", "--quiet-hours", "", "--quiet-for", "all", "--json"
    ).json
    assert (changed["caps"], changed["quiet_hours"]) == ([], None)
    assert changed["quiet_kinds"] == ["marketing", "transactional"]
