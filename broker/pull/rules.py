"""How a brand answers: bounds, commands, routes, texts, hours. The structs are the form; `check` knows the rest."""

from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from broker.bridge.restraint import check_zone
from broker.errors import Refused
from broker.identity import check_name
from broker.limits import RULES_MAX, TEXT_MAX
from broker.pull import template
from broker.pull.fold import words
from broker.pull.hours import check_hours

Text = Annotated[str, Meta(max_length=TEXT_MAX)]
Texts = dict[Annotated[str, Meta(pattern=r"^(?:[a-z]{2,3})?$")], Text]  # by language; "": all others
Word = Annotated[str, Meta(min_length=1, max_length=100)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A misspelt rule would rule nothing."""


class Command(_Strict, frozen=True, omit_defaults=True):
    """What is done when all that is asked is one of these words; with a * at the end, when it begins so."""

    words: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=50)]
    item: str = ""
    text: Texts = {}
    follow: str = ""
    route: str = ""
    hand_over: bool = False


class Route(_Strict, frozen=True, omit_defaults=True):
    """How long the brand's server has to answer, and what is said when it does not."""

    time_limit_s: Annotated[float, Meta(ge=0.1, le=60)] = 5.0
    fallback: Texts = {}
    otherwise: Annotated[Literal["nothing", "person"], Meta()] = msgspec.field(name="or", default="nothing")


class For(_Strict, frozen=True, omit_defaults=True):
    """Questions that a person answers: with one of these words in them, or of these customers."""

    words: Annotated[tuple[Word, ...], Meta(max_length=50)] = ()
    tags: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()


class Wording(_Strict, frozen=True, omit_defaults=True):
    """What the automation says, by language. What a brand leaves out is said in our words."""

    help: Texts = {}
    choice: Texts = {}
    nothing: Texts = {}
    person: Texts = {}
    out_of_hours: Texts = {}
    stopped: Texts = {}
    started: Texts = {}
    followed: Texts = {}
    unfollowed: Texts = {}
    closed: Texts = {}


class Inbox(_Strict, frozen=True, omit_defaults=True):
    """How conversations come to persons. Times in seconds."""

    assign: Literal["round_robin", "none"] = "round_robin"
    remind_s: Annotated[int, Meta(ge=10, le=7 * 86400)] = 300
    idle_s: Annotated[int, Meta(ge=60, le=30 * 86400)] = 86400
    most: Annotated[int, Meta(ge=1, le=1000)] = 5


class Rules(_Strict, frozen=True, omit_defaults=True):
    """How a brand answers."""

    language: Annotated[str, Meta(pattern=r"^(?:[a-z]{2,3})?$")] = ""
    time_zone: str = "UTC"
    hours: dict[str, list[str]] = {}  # when persons answer; {}: always
    score_min: Annotated[float, Meta(ge=0, le=1)] = 0.4
    lead: Annotated[float, Meta(ge=0, le=1)] = 0.25
    choices_max: Annotated[int, Meta(ge=1, le=10)] = 4
    commands: Annotated[tuple[Command, ...], Meta(max_length=200)] = ()
    otherwise: Annotated[str, Meta(pattern=r"^(?:nothing|person|route:.{1,64})$")] = "nothing"
    routes: Annotated[dict[str, Route], Meta(max_length=20)] = {}
    hand_over: Annotated[tuple[For, ...], Meta(max_length=50)] = ()
    texts: Wording = Wording()
    inbox: Inbox = Inbox()


# What routes cannot be called: on these topics under `{brand}/ask/` servers answer, and hear why that was refused.
_TAKEN: Final = ("answer", "refused")
_decode: Final = msgspec.json.Decoder(Rules).decode
_SAID: Final[Mapping[str, Mapping[str, str]]] = {
    "help": {
        "": "Ask in your own words. Or write: follow NAME, stop NAME, stop (no more messages), start, operator.",
        "it": "Chiedi con parole tue. Oppure scrivi: segui NOME, ferma NOME, stop (più niente), start, operatore.",
        "de": "Frag mit eigenen Worten. Oder schreib: folge NAME, stopp NAME, stopp (nichts mehr), start, mitarbeiter.",
    },
    "choice": {"": "Which of these do you mean?", "it": "Quale di questi intendi?", "de": "Was davon meinst du?"},
    "nothing": {
        "": "There is no answer to that here. Try other words.",
        "it": "Qui non c'è una risposta. Prova con altre parole.",
        "de": "Darauf gibt es hier keine Antwort. Versuch es mit anderen Worten.",
    },
    "person": {
        "": "Somebody will answer you here.",
        "it": "Ti risponderà qui una persona.",
        "de": "Hier antwortet dir gleich jemand.",
    },
    "out_of_hours": {
        "": "Nobody is there now. We answer here as soon as we are back: {{ data.open }}.",
        "it": "Ora non c'è nessuno. Rispondiamo qui appena torniamo: {{ data.open }}.",
        "de": "Gerade ist niemand da. Wir antworten hier, sobald wir zurück sind: {{ data.open }}.",
    },
    "stopped": {
        "": "You will get no more messages. Write start to get them again.",
        "it": "Non riceverai altri messaggi. Scrivi start per riceverli di nuovo.",
        "de": "Du bekommst keine Nachrichten mehr. Schreib start, um sie wieder zu bekommen.",
    },
    "started": {
        "": "You get messages again.",
        "it": "Ricevi di nuovo i messaggi.",
        "de": "Du bekommst wieder Nachrichten.",
    },
    "followed": {
        "": "You hear of changes of {{ data.title }}. Write stop {{ data.item }} to end that.",
        "it": "Ti avviseremo delle novità di {{ data.title }}. Scrivi ferma {{ data.item }} per smettere.",
        "de": "Du hörst von Neuem zu {{ data.title }}. Schreib stopp {{ data.item }}, um das zu beenden.",
    },
    "unfollowed": {
        "": "You hear no more of {{ data.title }}.",
        "it": "Non ti avviseremo più di {{ data.title }}.",
        "de": "Du hörst nichts mehr von {{ data.title }}.",
    },
    "closed": {
        "": "This conversation is closed. Ask again whenever you like.",
        "it": "Questa conversazione è chiusa. Chiedi di nuovo quando vuoi.",
        "de": "Dieses Gespräch ist beendet. Frag jederzeit wieder.",
    },
}


@lru_cache(1024)
def of(text: str) -> Rules:
    """The rules that a row of content.db holds; those of a brand that never said any for ''."""
    return _decode(text) if text else Rules()


def parse(content: bytes) -> Rules:
    """Rules as a brand writes them. Raises `Refused`."""
    try:
        rules = _decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"these are no rules: {error}", reason=0x83, remedy="docs/asking.md has them all.") from None
    check(rules)
    return rules


def check(rules: Rules) -> None:
    """`Refused` when rules cannot be meant, or are too much."""
    if len(msgspec.json.encode(rules)) > RULES_MAX:
        raise Refused(f"more than {RULES_MAX >> 10} KiB of rules", reason=0x97, remedy="Put long texts into items.")
    check_zone(rules.time_zone)
    check_hours(rules.hours)
    for name in rules.routes:
        check_name("route", name)
        if name in _TAKEN:
            raise Refused(
                f"a route cannot be called {name}", reason=0x83, remedy="Use another name: that topic is taken."
            )
    for phrase in chain.from_iterable([one.words for one in rules.commands] + [one.words for one in rules.hand_over]):
        if not words(phrase):
            raise Refused(f"there is no word in {phrase!r}", reason=0x83, remedy="Use letters or digits.")
    if For() in rules.hand_over:
        raise Refused("a hand_over rule says nothing", reason=0x83, remedy="Give it words, tags or stores.")
    for command in rules.commands:
        done = (command.item, command.text, command.follow, command.route, command.hand_over)
        if sum(map(bool, done)) != 1:
            raise Refused(
                f"the command {command.words[0]!r} does not say what is done, or says several things",
                reason=0x83,
                remedy="Give it one of item, text, follow, route, hand_over.",
            )
        _check_route(rules, command.route)
        _check_texts(command.text)
    if rules.otherwise.startswith("route:"):
        _check_route(rules, rules.otherwise.partition(":")[2])
    for route in rules.routes.values():
        _check_texts(route.fallback)
    for texts in msgspec.structs.asdict(rules.texts).values():
        _check_texts(texts)


def _check_texts(texts: Mapping[str, str]) -> None:
    for text in texts.values():
        template.check(text)


def _check_route(rules: Rules, route: str) -> None:
    if route and route not in rules.routes:
        raise Refused(f"there is no route {route!r}", reason=0x83, remedy=f'Add it: "routes": {{"{route}": {{}}}}.')


def in_language(texts: Mapping[str, str], *languages: str) -> str:
    """The text in the first of these languages that there is one in, else the one for all others, else any."""
    for language in (*filter(None, languages), ""):
        if language in texts:
            return texts[language]
    return next(iter(texts.values()), "")


def said(rules: Rules, what: str, language: str) -> str:
    """What the automation says, as a template."""
    texts: Mapping[str, Any] = getattr(rules.texts, what)
    if texts:
        return in_language(texts, language, rules.language)
    return in_language(_SAID[what], language, rules.language)
