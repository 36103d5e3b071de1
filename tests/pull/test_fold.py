"""Words that are to meet, meet; brands never do."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.limits import QUESTION_WORDS_MAX
from broker.pull.fold import forms, index_words, key, telling_words, words

NAMES = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9._@-]{0,20}[A-Za-z0-9])?\Z")


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("it", "torta", "torte"),
        ("it", "orario", "Orari"),
        ("it", "città", "citta"),
        ("it", "cioccolato", "cioccolati"),
        ("it", "negozio", "NEGOZI"),
        ("en", "chocolates", "chocolate"),
        ("en", "opening", "opens"),
        ("en", "Deliveries", "delivery"),
        ("de", "Müller", "Mueller"),
        ("de", "Müller", "Muller"),
        ("de", "Öffnungszeiten", "Oeffnungszeit"),
        ("de", "Straße", "STRASSE"),
        ("de", "Häuser", "Haus"),
        ("", "torta", "torte"),
        ("", "Kuchen", "kuchen"),
        ("", "cakes", "cake"),
    ],
)
def test_they_meet(language: str, one: str, other: str) -> None:
    (first,), (second,) = words(one), words(other)
    assert set(forms(first, language)) & set(forms(second, language))


@pytest.mark.parametrize(
    ("language", "one", "other"), [("it", "torta", "torre"), ("en", "cake", "care"), ("de", "Hose", "Rose")]
)
def test_others_do_not(language: str, one: str, other: str) -> None:
    assert forms(words(one)[0], language)[-1] != forms(words(other)[0], language)[-1]


def test_what_is_neither_letter_nor_digit_only_separates() -> None:
    assert words("L'orario\x00<b>di</b> \u202eapertura—NEAR(\"x\" OR y*)") == [
        "l", "orario", "b", "di", "b", "apertura", "near", "x", "or", "y"
    ]  # fmt: skip


def test_small_words_say_nothing_unless_there_are_no_others() -> None:
    assert telling_words("Quali sono gli orari del negozio di Milano?") == ["orari", "negozio", "milano"]
    assert telling_words("per chi?") == ["per", "chi"]
    assert len(telling_words(" ".join(f"w{number}" for number in range(1000)))) == QUESTION_WORDS_MAX


@given(NAMES, NAMES)
def test_no_word_of_a_brand_is_one_of_another(one: str, other: str) -> None:
    if one != other:
        assert not key(one).startswith(key(other))


@given(st.text(max_size=60), NAMES)
def test_the_index_has_each_word_as_one_token(text: str, brand: str) -> None:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE t USING fts5 (x, tokenize = 'unicode61 remove_diacritics 0')")
    db.execute("CREATE VIRTUAL TABLE v USING fts5vocab (t, row)")
    indexed = index_words(brand, text, "it")
    db.execute("INSERT INTO t VALUES (?)", (indexed,))
    tokens = {term for (term,) in db.execute("SELECT term FROM v")}
    assert tokens == set(indexed.split())
    assert all(token.startswith(key(brand)) for token in tokens)
    db.close()
