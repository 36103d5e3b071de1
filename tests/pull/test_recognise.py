"""What becomes of a question."""

import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import effort
from support.library import AT, NOW, Library, item, library

from broker.pull import recognise
from broker.pull.asking import Code, QuestionRefused
from broker.pull.commands import Command, command_of
from broker.pull.question import Asker, AskServer, Decided, Follow, HandOver, OptIn, OptOut, Question, Unfollow
from broker.store.entries import Who
from broker.store.follows import FollowTable

SHOP = (
    item("torta-cioccolato", "Torta al cioccolato", keywords=["sacher"], body="Con panna. {{ data.price | number }} €",
         data={"price": 3.5}),
    item("torta-mele", "Torta di mele", body="Con cannella e cioccolato fondente."),
    item("orari", "Orari di apertura", keywords=["quando siete aperti"], body="Ciao {{ user.title }}, dalle 9 alle 6."),
    item("orari", "Opening hours", language="en", body="From 9 to 6."),
    item("orari", "Öffnungszeiten", language="de", body="Von 9 bis 18 Uhr."),
    item("wipro", "Wipro", language="", keywords=["azioni wipro"], body="{{ data.quote }}", data={"quote": "12"}),
    item("gutschein", "Gutschein", language="de", body="Für unsere Gäste."),
)  # fmt: skip


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Library]:
    async with library(tmp_path) as made:
        await made.put(*SHOP, item("torta-segreta", "Torta segreta al cioccolato", brand="rival"))
        yield made


def item_of(decided: Decided) -> str:
    return decided.shown.item if decided.outcome == "answered" else decided.outcome


@pytest.mark.parametrize(
    ("text", "language", "name"),
    [
        ("torta al cioccolato", "it", "torta-cioccolato"),
        ("avete torte di cioccolato?", "it", "torta-cioccolato"),
        ("SACHER!!", "it", "torta-cioccolato"),
        ("mele", "it", "torta-mele"),
        ("quando siete aperti", "it", "orari"),
        ("orario di apertura", "it", "orari"),
        ("öffnungszeit", "de", "orari"),
        ("Oeffnungszeiten bitte", "de", "orari"),
        ("opening hours", "en", "orari"),
        ("wipro", "de", "wipro"),
        ("wip", "it", "wipro"),  # still being typed
        ("torta cioc", "it", "torta-cioccolato"),
        ("le mele del negozio", "it", "torta-mele"),
        ("gutscheine", "it", "gutschein"),  # another language is better than none
        ("cannella", "it", "torta-mele"),  # in the body
        ("torta", "it", "choice"),
        ("cioccolato", "it", "torta-cioccolato"),  # in a title is better than in a body
        ("fattura", "it", "nothing"),
        ("segreta", "it", "nothing"),  # the other brand's
    ],
)
async def test_it_is_answered_with(shop: Library, text: str, language: str, name: str) -> None:
    if text == "gutscheine":
        language = ""
    assert item_of(await shop.ask(text, language=language)) == name


async def test_an_item_comes_in_the_language_of_who_asks(shop: Library) -> None:
    assert (await shop.ask("", choice="orari", language="de")).shown.title == "Öffnungszeiten"
    assert (await shop.ask("", choice="orari", language="en")).shown.body == "From 9 to 6."


async def test_templates_are_filled_in(shop: Library) -> None:
    assert (await shop.ask("sacher")).shown.body == "Con panna. 3,50 €"
    assert (await shop.ask("orari", title="Ada")).shown.body.startswith("Ciao Ada,")
    assert (await shop.ask("sacher")).shown.data == {"price": 3.5}


async def test_a_choice_has_titles_and_is_taken_by_its_id(shop: Library) -> None:
    decided = await shop.ask("torta")
    assert [(one.id, one.title) for one in decided.options] == [
        ("torta-cioccolato", "Torta al cioccolato"), ("torta-mele", "Torta di mele")
    ]  # fmt: skip
    assert item_of(await shop.ask("", choice=decided.options[1].id)) == "torta-mele"


async def test_a_choice_of_the_brands_server_goes_back_to_it(shop: Library) -> None:
    await shop.content.set_rules("acme", '{"routes": {"search": {}}}')
    decided = await shop.ask("", choice="route:search:cakes:12")
    assert (decided.outcome, decided.action) == ("asking", AskServer("search", "cakes:12"))


@pytest.mark.parametrize("choice", ["route:search:12", "nothing", "torta-segreta", "follow:", "follow:x:y", "' OR 1=1"])
async def test_what_was_not_offered_cannot_be_chosen(shop: Library, choice: str) -> None:
    with pytest.raises(QuestionRefused) as caught:
        await shop.ask("", choice=choice)
    assert caught.value.code == Code.UNKNOWN_CHOICE


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("STOP", OptOut()),
        ("basta!", OptOut()),
        ("start", OptIn()),
        ("operatore", HandOver("asked")),
        ("Mitarbeiter", HandOver("asked")),
        ("follow wipro", Follow("wipro", 0)),
        ("segui Wipro ogni 3 ore", Follow("wipro", 3 * 3600)),
        ("folge wipro täglich", Follow("wipro", 86400)),
        ("follow wipro daily", Follow("wipro", 86400)),
        ("follow azioni wipro", Follow("wipro", 0)),
        ("stop wipro", Unfollow("wipro")),
        ("unfollow Wipro", Unfollow("wipro")),
        ("what time do you stop serving", None),
        ("help", None),
    ],
)
async def test_commands(shop: Library, text: str, action: Any) -> None:
    assert (await shop.ask(text)).action == action


async def test_who_follows_is_answered_now_too(shop: Library) -> None:
    decided = await shop.ask("follow wipro", language="en")
    assert decided.shown.body == "12\n\nYou hear of changes of Wipro. Write stop wipro to end that."
    assert decided.outcome == "command"


async def test_what_to_follow_may_be_a_choice(shop: Library) -> None:
    decided = await shop.ask("follow torta daily")
    assert [one.id for one in decided.options] == ["follow:torta-cioccolato:86400", "follow:torta-mele:86400"]
    assert (await shop.ask("", choice=decided.options[0].id)).action == Follow("torta-cioccolato", 86400)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("follow x every 2 days", Command("follow", "x", 2 * 86400)),
        ("folge x alle 30 Minuten", Command("follow", "x", 1800)),
        ("follow", None),
        ("stop it now", Command("unfollow", "it now")),
        ("please stop", None),
        ("", None),
    ],
)
def test_a_command_is_all_of_what_is_said(text: str, command: Command | None) -> None:
    assert command_of(text) == command


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ({}, True),
        ({"stores": ["milano"]}, True),
        ({"stores": ["roma"]}, False),
        ({"tags": ["vip", "staff"]}, True),
        ({"tags": ["staff"]}, False),
        ({"valid_from": AT + 1}, False),
        ({"valid_from": AT}, True),
        ({"valid_until": AT}, False),
        ({"valid_until": AT + 1}, True),
        ({"hours": {"mon": ["12:00-13:00"]}}, True),  # 11:00 UTC is noon in Rome
        ({"hours": {"mon": ["09:00-12:00"]}}, False),
    ],
)
async def test_it_is_for_who_asks_and_for_now(shop: Library, given: dict[str, Any], there: bool) -> None:
    await shop.content.set_rules("acme", '{"time_zone": "Europe/Rome"}')
    await shop.put(item("offerta", "Offerta speciale", **given))
    found = await shop.explain("offerta speciale", store="milano", tags=frozenset({"vip"}))
    assert (item_of(found.decided) == "offerta") is there
    assert bool(found.hits[0].left_out) is not there


async def test_what_is_for_them_comes_before_what_is_for_all(shop: Library) -> None:
    await shop.put(item("sconto", "Sconto studenti"), item("sconto-milano", "Sconto milanesi", stores=["milano"]))
    assert [one.id for one in (await shop.ask("sconto", store="milano")).options] == ["sconto-milano", "sconto"]


async def test_namesakes_of_other_stores_do_not_hide_their_own(shop: Library) -> None:
    chain = [item(f"parcheggio-{n}", "Parcheggio", body=f"{n}", stores=[f"store-{n}"]) for n in range(200)]
    await shop.put(*chain)
    for text in ("parcheggio", "parcheggio del negozio"):
        assert (await shop.ask(text, store="store-3")).shown.body == "3"
        assert (await shop.ask(text, store="milano")).outcome == "nothing"
    left_out = (await shop.explain("parcheggio", store="milano")).hits
    assert {one.left_out for one in left_out} == {"it is for other stores"}


async def test_what_holds_at_other_hours_does_not_hide_what_holds_now(shop: Library) -> None:
    times = [f"{hour:02}:{minute:02}-{hour:02}:{minute + 29}" for hour in range(24) for minute in (0, 30)]
    await shop.put(*(item(f"menu-{n}", "Menù", body=at, hours={"mon": [at]}) for n, at in enumerate(times)))
    assert (await shop.ask("menu")).shown.body == "11:00-11:29"
    assert (await shop.ask("il menu di oggi")).shown.body == "11:00-11:29"


async def test_of_what_is_called_the_same_theirs_is_answered(shop: Library) -> None:
    await shop.put(item("sconto", "Sconto"), item("sconto-vip", "Sconto", tags=["vip"]))
    await shop.put(item("discount", "Sconto", language="en"))
    assert item_of(await shop.ask("sconto", tags=frozenset({"vip"}))) == "sconto-vip"
    assert item_of(await shop.ask("sconto")) == "sconto"


async def follow(shop: Library, *items: str) -> None:
    table = FollowTable(shop.records)
    async with shop.records.transaction():
        for one in items:
            await table.begin(Who("acme", "user", "ada"), one, 0, AT, "brand")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("stop gone-item", Unfollow("gone-item")),  # that is not there any more
        ("stop gone item", Unfollow("gone-item")),
        ("ferma Panettone", Unfollow("natale")),  # that does not hold now
        ("stop torta", None),  # which of two?
        ("stop torta-mele", Unfollow("torta-mele")),
        ("stopp mele", Unfollow("torta-mele")),
        ("stop wipro", Unfollow("wipro")),  # that they do not follow: it is said all the same
    ],
)
async def test_what_is_followed_can_be_ended_whatever_became_of_it(shop: Library, text: str, action: Any) -> None:
    await shop.put(item("natale", "Panettone", valid_until=AT))
    await follow(shop, "gone-item", "natale", "torta-mele", "torta-cioccolato")
    decided = await shop.ask(text)
    assert decided.action == action
    if action is None:
        assert [one.id for one in decided.options] == ["unfollow:torta-cioccolato", "unfollow:torta-mele"]
        assert (await shop.ask("", choice=decided.options[0].id)).action == Unfollow("torta-cioccolato")


async def test_what_is_followed_may_be_said_by_its_name(shop: Library) -> None:
    await shop.put(item("Apple-Pie", "Dolce della nonna"))
    assert (await shop.ask("segui Apple-Pie")).action == Follow("Apple-Pie", 0)
    assert (await shop.ask("segui torta mele ogni giorno")).action == Follow("torta-mele", 86400)


RULES: dict[str, Any] = {
    "commands": [
        {"words": ["ciao", "buongiorno"], "text": {"it": "Ciao {{ user.title }}!", "": "Hello!"}},
        {"words": ["cerca *"], "route": "search"},
        {"words": ["prezzi"], "item": "torta-mele"},
        {"words": ["novità"], "follow": "wipro"},
        {"words": ["stop"], "text": {"": "no"}},
        {"words": ["reso"], "hand_over": True},
    ],
    "routes": {"search": {}},
    "hand_over": [{"words": ["reclamo"]}, {"words": ["torta"], "tags": ["vip"]}],
    "otherwise": "person",
}


@pytest.mark.parametrize(
    ("text", "tags", "rule", "action"),
    [
        ("Buongiorno!", (), "command:ciao", None),
        ("cerca scarpe rosse", (), "route:search", AskServer("search")),
        ("prezzi", (), "command:prezzi", None),
        ("novita", (), "command:follow", Follow("wipro", 0)),
        ("stop", (), "command:stop", OptOut()),  # no brand may take that from anybody
        ("reso", (), "command:reso", HandOver("rule")),
        ("vorrei fare un reclamo", (), "hand_over:reclamo", HandOver("rule")),
        ("ho due reclami", (), "hand_over:reclamo", HandOver("rule")),
        ("torta", ("vip",), "hand_over:torta", HandOver("rule")),
        ("torta", (), "search", None),
        ("fattura", (), "not_found", HandOver("not_found")),
        ("torta fattura elettronica azienda spedizione", (), "low_score", HandOver("low_score")),
    ],
)
async def test_a_brand_has_rules_of_its_own(
    shop: Library, text: str, tags: tuple[str, ...], rule: str, action: Any
) -> None:
    await shop.content.set_rules("acme", json.dumps(RULES))
    decided = await shop.ask(text, tags=frozenset(tags))
    assert (decided.rule, decided.action) == (rule, action)


async def test_changed_rules_and_items_are_seen_at_once(shop: Library) -> None:
    assert (await shop.ask("fattura")).outcome == "nothing"
    assert (await shop.ask("fattura")).nearest == ""
    far = await shop.ask("torta fattura elettronica azienda spedizione")
    assert (far.outcome, far.nearest.split("-")[0]) == ("nothing", "torta")
    await shop.put(item("fattura", "Fattura"))
    assert item_of(await shop.ask("fattura")) == "fattura"
    await shop.content.set_rules("acme", '{"commands": [{"words": ["fattura"], "text": {"": "no"}}]}')
    assert (await shop.ask("fattura")).rule == "command:fattura"


async def test_why_is_explained(shop: Library) -> None:
    await shop.put(item("cannoli", "Cannoli", keywords=["cannella"]), item("te", "Tè alla cannella", tags=["staff"]))
    found = await shop.explain("torta con la cannella!")
    assert found.words == ["torta", "cannella"]
    first = found.hits[0]
    assert (first.item, first.exact, first.matched) == ("torta-mele", False, {"torta": "title", "cannella": "body"})
    assert 0.6 < first.score < 0.9
    exact = await shop.explain("cannella")
    assert [(one.item, one.exact, one.score) for one in exact.hits] == [("cannoli", True, 1.0)]
    assert exact.decided.rule == "keyword"
    left_out = (await shop.explain("tè")).hits
    assert [(one.item, one.left_out) for one in left_out] == [("te", "it is for who has other tags")]


HOSTILE = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from(
            ['"', "*", "NEAR(", ")", "AND", "OR", "NOT", "^", "title:", "{title}", "-", "+", "torta", "' OR 1=1 --",
             "\x00", "{{ 7*7 }}", "<script>", "stop", "follow", "ogni", "9999 ore", "\u202e", "ﷺ", "mfrw2zi0torta"]
        ),
        max_size=40,
    ).map(" ".join),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HOSTILE, language=st.sampled_from(["", "it", "de", "xx"]))
async def test_no_text_does_harm_or_shows_what_is_anothers(shop: Library, text: str, language: str) -> None:
    found = await shop.explain(text, language=language)
    assert all(hit.item != "torta-segreta" for hit in found.hits)
    assert "49" not in found.decided.shown.body
    assert 0 <= found.decided.score <= 1


async def test_a_very_long_question_is_bounded(shop: Library) -> None:
    found = await shop.explain("torta " + " ".join(f"parola{number}" for number in range(2000)))
    assert len(found.words) == 32


async def test_many_tags_of_many_items_take_no_time(shop: Library) -> None:
    """Who asks any brand waits meanwhile."""
    tags = [f"{number:03}{'t' * 40}" for number in range(50)]
    await shop.put(*(item(f"cake-{number}", "Cake", tags=tags) for number in range(1000)))
    mine = frozenset(f"m{tag}" for tag in tags)
    began = time.thread_time()
    assert (await shop.ask("cake", tags=mine)).outcome == "nothing"
    assert time.thread_time() - began < 0.2


async def test_many_phrases_of_rules_take_no_time(shop: Library) -> None:
    commands = [{"words": [f"{one}a{two}" for two in range(50)], "text": {"": "yes"}} for one in range(200)]
    hand_over = [{"words": [f"h{one}a{two}" for two in range(50)]} for one in range(50)]
    await shop.content.set_rules("acme", json.dumps({"commands": commands, "hand_over": hand_over}))
    assert (await shop.ask("199a49")).rule == "command:199a0"
    asker, question = Asker(brand="acme", device="k", language="it"), Question(text="quanto costa la torta?")
    shop.recogniser.decide(shop.db, asker, question, NOW)
    assert effort.lines(lambda: shop.recogniser.decide(shop.db, asker, question, NOW)) < 10_000


@pytest.mark.parametrize(("newest", "outcome"), [(160, "answered"), (159, "nothing")])
async def test_of_items_with_a_usual_word_so_many_are_looked_at(
    shop: Library, monkeypatch: pytest.MonkeyPatch, newest: int, outcome: str
) -> None:
    monkeypatch.setattr(recognise, "NEWEST", newest)
    await shop.put(item("pie", "Pie of apples"))
    await shop.put(*(item(f"pie-{number}", f"Pie {number}", stores=["roma"]) for number in range(159)))
    assert (await shop.ask("pie")).outcome == outcome


async def test_a_beginning_of_words_that_are_in_too_many_items_says_nothing(
    shop: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert item_of(await shop.ask("wip")) == "wipro"
    monkeypatch.setattr(recognise, "_BEGUN_IN_MAX", 0)
    assert item_of(await shop.ask("wip")) == "nothing"


async def test_now_is_an_argument(shop: Library) -> None:
    await shop.put(item("natale", "Panettone", valid_until=AT))
    before = datetime.fromtimestamp(AT / 1000 - 1).astimezone()
    assert item_of(await shop.ask("panettone", now=before)) == "natale"
