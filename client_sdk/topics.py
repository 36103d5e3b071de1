"""Names and topics: where a brand sends to, where a device listens and answers."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

# The same rule as the broker's, so that a wrong name is a ValueError here and not a refusal later.
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?", re.ASCII)

ENROL_REQUEST: Final = "$enrol/csr"
ENROL_ANSWER: Final = "$enrol/certificate"


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can name a `kind` of thing; raise `ValueError` otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a {kind}: use 1 to 64 letters, digits, '.', '_', '@' and '-', "
            "with a letter or digit at both ends"
        )
    return name


def target(brand: str, kind: str, name: str) -> str:
    """The topic of a brand's user, device, store or topic."""
    return f"{brand}/{kind}/{check_name(kind, name)}"


def receipts_filter(brand: str) -> str:
    """Matches what becomes of every message of a brand."""
    return f"{brand}/receipts/+"


def request_topic(brand: str, kind: str) -> str:
    """Where a brand's server asks the broker: "send" for rich sends and withdrawals, "content" for its library."""
    return f"{brand}/{kind}"


def answer_topic(brand: str, client_id: str) -> str:
    """Where one server gets its answers: the same one after a restart, and nobody else's."""
    return f"{brand}/send/answer/{hashlib.sha256(client_id.encode()).hexdigest()[:16]}"


def questions_topic(brand: str, route: str) -> str:
    """Where a route's questions come."""
    return f"{brand}/ask/{check_name('route', route)}"


def questions_filter(brand: str, route: str) -> str:
    """Matches them, for one of all programs that answer this route."""
    return f"$share/{route}/{questions_topic(brand, route)}"


def answered_topic(brand: str) -> str:
    """Where a brand's server answers questions."""
    return f"{brand}/ask/answer"


def answers_refused_topic(brand: str) -> str:
    """Where it hears which of its answers are none."""
    return f"{brand}/ask/refused"


@dataclass(frozen=True, slots=True)
class Place:
    """Whose a device is: its brand, its name, and its user and store where it has them (empty otherwise)."""

    brand: str
    device: str
    user: str = ""
    store: str = ""

    @property
    def withdraw_topic(self) -> str:
        """Where the device hears what it is to take off the screen."""
        return f"{self.brand}/device/{self.device}/withdraw"

    @property
    def preferences_topic(self) -> str:
        """Where the device hears what its user wants."""
        return f"{self.brand}/device/{self.device}/preferences"

    @property
    def answer_topic(self) -> str:
        """Where the device gets the answers to what it asks."""
        return f"{self.brand}/device/{self.device}/answer"

    @property
    def conversation_topic(self) -> str:
        """Where the device hears what happens to its conversation."""
        return f"{self.brand}/device/{self.device}/conversation"

    def up_topic(self, kind: str) -> str:
        """Where the device says something: what became of a message, what its user wants, and so on."""
        return f"{self.brand}/device/{self.device}/up/{kind}"

    def filters(self, followed: frozenset[str]) -> frozenset[str]:
        """All that the device listens to: its own branch, its user's, its store's, and the topics it follows."""
        wanted = {f"{self.brand}/device/{self.device}", self.withdraw_topic, self.preferences_topic}
        if self.user:
            wanted.add(f"{self.brand}/user/{self.user}")
        if self.store:
            wanted.add(f"{self.brand}/store/{self.store}")
        return frozenset(wanted | {f"{self.brand}/topic/{name}" for name in followed})
