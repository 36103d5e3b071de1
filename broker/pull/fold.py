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
_UMLAUT: Final = re.compile(r"(?<!q)([aou])e")  # as who has no ä writes it
_LETTERS: Final = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe"})  # no accents to Unicode
# What questions have in common; greetings, too.
_STOP: Final = frozenset(
    """a ad ai al alla alle allo agli anche avete c che chi ci ciao come con cortesia cosa cui d da dal dalla dalle
    dallo dai dagli davvero de dei degli del della delle dello devo di dove e ed faccio favore fa fare fate gli
    grazie ha hai hanno ho i il in io l la le lo ma mi ne nei nel nell nella nelle nello o per piacere piu posso
    potete potrei puo puoi qual quale quali quando quanti quanto quest questa questo salve sapere scusa scusi se
    sei si sia siete sono su sul sulla sulle sullo ti tra tu un una uno vi voglio voi volevo vorrei vostra
    vostri vostro buon buonasera buongiorno dimmi dire avere fammi cerco trovo esiste vendete
    am an and any are as at be by can could do does for from get got has have hello hey hi how if is it like me my
    need of on or our please s some t tell thank thanks that the there they this to want was we what when where
    which who will with would you your looking
    aber als auf aus bei bin bis bitte brauche da danke darf das dass dem den der des die dir doch du ein eine einem
    einen einer eines er es etwas euch euer eure fur gerne gibt gibts guten habe haben habt hallo hat hatte
    hatten ich ihr ihre im ist ja kann kannst man mein mich mir mit mochte mochten nach nicht noch oder sagen
    sie sind so sollte um und uns vom von vor wann was welche welcher welches wenn wie wir wird wissen wo wurde
    wurden zu zum zur konnen konnte konnten suche hier""".split()  # noqa: SIM905 - words are easier to read than a list
)


@lru_cache(16_384)
def forms(word: str, language: str) -> tuple[str, ...]:
    """What a word is looked for as: itself, and its stem in this language, or in each that we know; '': not known."""
    stemmers = (_STEMMERS[language],) if language in _STEMMERS else _STEMMERS.values()
    found = (word, _UMLAUT.sub(r"\1", word), *(stemmer.stemWord(word) for stemmer in stemmers))
    return tuple(dict.fromkeys(map(token, reversed(found))))[::-1]


def token(word: str) -> str:
    """A word as one to FTS5 as well, which does not know all letters that there are."""
    return word if word.isascii() else "0" + word.encode().hex()


def stem(word: str, language: str) -> str:
    """What is left of a word without its ending."""
    return forms(word, language)[-1]


def words(text: str) -> list[str]:
    """The words of a text, folded but not stemmed."""
    plain = text.casefold()
    if not plain.isascii():
        # Folded again: letters of mathematics have capitals, too.
        plain = unicodedata.normalize("NFKD", plain).casefold().translate(_LETTERS)
        plain = "".join(c for c in plain if not unicodedata.combining(c))
    return [word[:WORD_MAX] for word in _WORD.findall(plain)]


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
    stems = sorted({stem(word, language) for word in telling_words(text)})
    return key(brand) + " ".join(stems)


def phrases(brand: str, texts: Iterable[str], language: str) -> frozenset[str]:
    """Those under which items are looked for by who asks in this language, or in one that nobody knows."""
    languages = (language, "") if language else (*_NAMES, "")
    return frozenset(phrase_key(brand, text, one) for text in texts for one in languages)
