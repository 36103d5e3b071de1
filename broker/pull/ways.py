"""How a brand's rules want its inbox to be: when persons answer, and what customers are told."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from broker.pull import template
from broker.pull.hours import is_open, next_open
from broker.pull.question import Asker
from broker.pull.rules import Rules, said

_DAYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "it": ("lunedì", "martedì", "mercoledì", "giovedì", "venerdì", "sabato", "domenica"),
    "de": ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"),
}


class Ways:
    """What the rules of one brand say."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._zone = ZoneInfo(rules.time_zone)
        self.round_robin = rules.inbox.assign == "round_robin"
        self.remind_s = rules.inbox.remind_s
        self.idle_s = rules.inbox.idle_s
        self.most = rules.inbox.most

    def open(self, now: datetime) -> bool:
        """Whether persons answer at this time."""
        return is_open(self._rules.hours, self._zone, now)

    def handed_over(self, asker: Asker, now: datetime) -> str:
        """What somebody is told who is to be answered by a person."""
        if self.open(now):
            return self.words("person", asker)
        return self.words("out_of_hours", asker, {"open": self._opens(asker.language or self._rules.language, now)})

    def words(self, what: str, asker: Asker, data: Mapping[str, Any] | None = None) -> str:
        """One of the brand's texts, in their language."""
        return template.render(said(self._rules, what, asker.language), asker, data or {})

    def _opens(self, language: str, now: datetime) -> str:
        """`09:00` where that is today, else `Monday 09:00`; '' where it is never."""
        opens = next_open(self._rules.hours, self._zone, now)
        if opens is None:
            return ""
        there = opens.astimezone(self._zone)
        day = _DAYS.get(language, _DAYS[""])[there.weekday()]
        today = there.date() == now.astimezone(self._zone).date()
        return f"{there:%H:%M}" if today else f"{day} {there:%H:%M}"
