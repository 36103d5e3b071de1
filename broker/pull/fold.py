"""Words as they are looked for: small letters without accents, and of each language its stems.

"Müller", "Mueller" and "Muller" meet, "l'orario" is found by "orari", "chocolates" by "chocolate". Whatever is neither
a letter nor a digit (markup, control characters, what means something to FTS5) only stands between words.
"""

import base64
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import Stemmer  # type: ignore[import-not-found]

from broker.limits import QUESTION_WORDS_MAX, WORD_MAX

_NAMES: Final = {"it": "italian", "en": "english", "de": "german"}
# Without a cache of their own: `_forms` has one for all. German's own takes "ue" for "ü" and then for "u".
_STEMMERS: Final = {language: Stemmer.Stemmer(name, 0) for language, name in _NAMES.items()}
_WORD: Final = re.compile(r"[^\W_]+")
_STOP: Final = frozenset(
    """avere avete c cerco dove esiste posso trovo vendete vorrei
    any need want looking there please
    brauche gibt haben habt hier mochte suche bitte
    a ad al allo alla ai agli alle che chi ci con da dal dallo dalla dai dagli dalle de dei degli del della delle
    dello di e ed gli ha hai ho i il in io l la le lo ma mi ne nei nel nella nelle nello o per piu quale quali quando
    quanto se si sono su sul sulla sulle sullo ti tra un una uno vi voi
    an and are as at be by can do does for from has have how is it me my of on or our that the this to was we what
    when where which who will with you your
    aber als am auf aus bei bin bis das dass dem den der des die dir doch du ein eine einem einen einer eines er es
    euch fur hat ich ihr im ist ja kann man mein mich mir mit nach nicht noch oder sie sind so und uns vom von vor
    was wann wie wir wird wo zu zum zur""".split()  # noqa: SIM905 - words are easier to read than a list
)


@lru_cache(16_384)
def forms(word: str, language: str) -> tuple[str, ...]:
    """What a word is looked for as: itself, and its stem in this language, or in each that we know; '': not known."""
    stems = (_STEMMERS[language],) if language in _STEMMERS else _STEMMERS.values()
    return tuple(dict.fromkeys((word, *(stem.stemWord(word) for stem in stems))))


def words(text: str) -> list[str]:
    """The words of a text, folded but not stemmed."""
    plain = unicodedata.normalize("NFKD", text.casefold()).casefold()  # letters of mathematics have capitals, too
    return [word[:WORD_MAX] for word in _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))]


def telling_words(text: str) -> list[str]:
    """Those that say what it is about, each once, and at most so many; all of them where none does."""
    said = words(text)
    return list(dict.fromkeys([word for word in said if word not in _STOP] or said))[:QUESTION_WORDS_MAX]


@lru_cache(1024)
def key(brand: str) -> str:
    """What stands before each word of a brand in the index. No other brand's words begin with it."""
    # FTS5 splits at what names may have besides letters, and knows no capitals: base 32 has neither, and no 0.
    return base64.b32encode(brand.encode()).decode().rstrip("=").lower() + "0"


def index_words(brand: str, text: str, language: str) -> str:
    """What stands in the index for a text of a brand's."""
    before = key(brand)
    return " ".join(before + form for word in words(text) for form in forms(word, language))


def phrase_key(brand: str, text: str, language: str) -> str:
    """What a phrase says, whatever the order and the endings of its words, for one brand."""
    stems = sorted({forms(word, language)[-1] for word in telling_words(text)})
    return key(brand) + " ".join(stems)


def phrases(brand: str, texts: Iterable[str], language: str) -> frozenset[str]:
    """Those under which items are looked for by who asks in this language, or in one that nobody knows."""
    languages = (language, "") if language else (*_NAMES, "")
    return frozenset(phrase_key(brand, text, one) for text in texts for one in languages)
