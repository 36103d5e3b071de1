"""Commands that every brand has, in Italian, English and German. All of a question must be one to be one."""

import re
from typing import Final, Literal, NamedTuple

from broker.pull.fold import words

Verb = Literal["stop", "start", "help", "operator", "follow", "unfollow"]

_PHRASES: Final[dict[Verb, tuple[str, ...]]] = {
    "stop": ("stop", "stop all", "unsubscribe", "ferma", "ferma tutto", "basta", "stopp", "abmelden"),
    "start": ("start", "inizia", "riprendi", "anmelden"),
    "help": ("help", "aiuto", "comandi", "hilfe"),
    "operator": ("operator", "human", "person", "agent", "operatore", "persona", "mitarbeiter", "mensch"),
}
# To a person: they may go. To the automation these are words like others.
_CLOSING: Final = ("close", "chiudi", "schliessen", "beenden")
_WHOLE: Final = {phrase: verb for verb, phrases in _PHRASES.items() for phrase in phrases}
_BEGINNINGS: Final[dict[Verb, tuple[str, ...]]] = {
    "follow": ("follow", "segui", "folge"),
    "unfollow": ("unfollow", "stop", "ferma", "stopp"),
}
_VERBS: Final = {word: verb for verb, begun in _BEGINNINGS.items() for word in begun}
_UNITS: Final = {
    **dict.fromkeys(("minute", "minutes", "minuto", "minuti", "minuten"), 60),
    **dict.fromkeys(("hour", "hours", "ora", "ore", "stunde", "stunden"), 3600),
    **dict.fromkeys(("day", "days", "giorno", "giorni", "tag", "tage"), 86400),
    **dict.fromkeys(("week", "weeks", "settimana", "settimane", "woche", "wochen"), 7 * 86400),
}
_OFTEN: Final = {"hourly": 3600, "daily": 86400, "weekly": 7 * 86400, "stundlich": 3600, "taglich": 86400,
                 "wochentlich": 7 * 86400}  # fmt: skip
_EVERY: Final = re.compile(rf"(?:every|ogni|alle) (?:(\d{{1,4}}) )?({'|'.join(_UNITS)})")


class Command(NamedTuple):
    """What is to be done, with what, how often (seconds; 0: each time)."""

    verb: Verb
    what: str = ""
    every_s: int = 0


def command_of(text: str) -> Command | None:
    """The command that a text is."""
    said = words(text)
    folded = " ".join(said)
    if verb := _WHOLE.get(folded):
        return Command(verb)
    if len(said) < 2 or (verb := _VERBS.get(said[0])) is None:
        return None
    rest, every_s = " ".join(said[1:]), 0
    if verb == "follow":
        rest, every_s = _often(rest)
    return Command(verb, rest, every_s) if rest else None


def closes(text: str) -> bool:
    """Whether somebody who talks to a person has no more to say."""
    return " ".join(words(text)) in _CLOSING


def _often(rest: str) -> tuple[str, int]:
    head, _, last = rest.rpartition(" ")
    if head and last in _OFTEN:
        return head, _OFTEN[last]
    if found := re.search(rf" {_EVERY.pattern}$", rest):
        return rest[: found.start()], int(found[1] or 1) * _UNITS[found[2]]
    return rest, 0
