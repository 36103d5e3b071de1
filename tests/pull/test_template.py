"""Templates: what they say, and what they cannot do."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError

from broker.errors import Refused
from broker.limits import RENDERED_MAX
from broker.pull import template as module
from broker.pull.question import Asker
from broker.pull.template import blanks, check, render

ADA = Asker(
    brand="acme", device="k", user="ada", title="Ada", language="it", tags=frozenset({"vip"}), attributes={"size": "38"}
)
DATA = {"price": 3.5, "from": "2026-12-24", "items": "none", "many": ["a", "b"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain { text }", "plain { text }"),
        ("Ciao {{ user.title }}!", "Ciao Ada!"),
        ("{{ data.price | number }} / {{ data.price | number(1, '.') }}", "3,50 / 3.5"),
        ("{{ data['from'] | date }}", "24.12.2026"),
        ("{% if 'vip' in user.tags %}10%{% else %}0{% endif %}", "10%"),
        ("{{ 'shown' if data.price > 3 else 'not' }}", "shown"),
        ("{{ user.attributes.size }}{{ user.attributes.colour.deep }}", "38"),
        ("{{ data.items }}", "none"),  # a field, not Python's own
        ("{{ data.many | join(', ') | upper }}", "A, B"),
        ("{{ user.nothing | default('guest') }}", "guest"),
        ("<b>{{ user.title }}</b> & co", "<b>Ada</b> & co"),
        ("{{ data.price | round }} {{ data.price | round(1) }} {{ data.items | round }}", "4 3.5 none"),
        ("{{ data.many > 3 }}", ""),  # what cannot be compared is left out
    ],
)
def test_templates_say(text: str, said: str) -> None:
    check(text)
    assert render(text, ADA, DATA) == said


_VALUES = st.sampled_from([
    "user.title", "user.tags", "user.attributes.size", "user.attributes.none.deep", "data.price", "data['from']",
    "data.items", "data.many", "data.many[1]", "data.many[7]", "'vip'", "''", "3", "2.5", "true", "none",
])  # fmt: skip
_FILTERS = st.sampled_from([
    "capitalize", "date", "date('%Y')", "default('?')", "default('?', true)", "first", "int", "join(', ')", "last",
    "length", "lower", "number", "number(1, '.')", "round", "round(1)", "title", "trim", "trim('a')", "upper",
])  # fmt: skip
_TESTS = st.sampled_from(["defined", "undefined", "none", "string", "number", "eq(3.5)", "ne('a')", "in('abc')"])
_EXPRESSIONS = st.recursive(
    _VALUES,
    lambda inner: st.one_of(
        st.builds("({}) | {}".format, inner, _FILTERS),
        st.builds("({}) is {}{}".format, inner, st.sampled_from(["", "not "]), _TESTS),
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["and", "or"]), inner),
        st.builds("not ({})".format, inner),
        st.builds(
            "({}) {} ({}) {} ({})".format, *[inner, st.sampled_from(["==", "!=", "<", ">=", "in", "not in"])] * 2, inner
        ),
        st.builds("({}) if ({}) else ({})".format, inner, inner, inner),
        st.builds("({}) if ({})".format, inner, inner),
    ),
    max_leaves=6,
)
_TEXTS = st.recursive(
    st.one_of(st.builds("{{{{ {} }}}}".format, _EXPRESSIONS), st.sampled_from([" a ", "\n", "{ b }", "{# c #}"])),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("{{% if ({}) -%}} {} {{% elif ({}) %}}{}{{% else %}}{}{{% endif %}}".format,
            *(_EXPRESSIONS, inner, _EXPRESSIONS, inner, inner),
        ),
    ),
    max_leaves=6,
)  # fmt: skip


@given(_TEXTS)
def test_they_say_what_jinja2_would(text: str) -> None:
    check(text)
    user = {"name": "ada", "title": "Ada", "store": "", "language": "it", "tags": ["vip"], "attributes": {"size": "38"}}
    try:
        wanted = module._ENVIRONMENT.from_string(text).render(user=user, data=DATA)
    except (TemplateError, TypeError, ValueError, OverflowError, ArithmeticError):
        wanted = ""
    assert render(text, ADA, DATA) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 1000000000 }}", "{{ 9 ** 9 ** 9 }}", "{% for i in data.many %}x{% endfor %}", "{% set x = 1 %}",
        "{% macro m() %}{% endmacro %}", "{% include 'x' %}", "{% import 'x' as x %}", "{{ user.title.upper() }}",
        "{{ user.__class__ }}", "{{ ''|attr('__class__') }}", "{{ user.title['a':'b'] }}", "{{ user[user.title] }}",
        "{{ config }}", "{{ self }}", "{{ range(9) }}", "{{ data|tojson }}", "{{ unclosed", "{% if %}", "{{ [1,2] }}",
        "{{ 'a' ~ 'b' }}", "{% filter upper %}x{% endfilter %}", "{{ 1 is divisibleby 0 }}",
    ],
)  # fmt: skip
def test_what_a_question_cannot_pay_for_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(Refused, match="template, line 1: "):
        check(text)
    with pytest.raises(Refused, match="template, line 3: "):
        check("a\n\n" + text)


@pytest.mark.parametrize("text", ["{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "{{ " + "not " * 30 + "1 }}"])
def test_what_is_too_deep_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="too deep"):
        check(text)


def test_what_users_say_of_themselves_is_never_a_template() -> None:
    evil = Asker(brand="acme", device="k", user="eve", title="{{ 7 * 7 }}", attributes={"size": "{% for %}"})
    assert render("{{ user.title }} {{ user.attributes.size }}", evil, {"x": "{{ 1 }}"}) == "{{ 7 * 7 }} {% for %}"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("{{ data.price }} {{ data['old price'] }} {{ data.cost | number }}", ["cost", "old price"]),
        ("{{ data.cost | default('?') }} {% if data.old is defined %}{{ data.old }}{% endif %}", []),
        ("data.cost", []),
    ],
)
def test_data_that_are_not_there_are_known_before(text: str, missing: list[str]) -> None:
    assert blanks(text, DATA) == missing


@pytest.mark.parametrize(
    "text",
    [
        "{{ data.long | join(data.long) | join(data.long) | join(data.long) | length }}",
        "{{ data.lots | join(data.long) | length }}",
        "{{ 5 | round(999999999, 'ceil') }}",
        "{{ data.number | round(data.number) }}",
        "{{ data.price | number(999999999) | length }}",
        "{{ data.day | date('%999999999d') | length }}",
    ],
)
@pytest.mark.parametrize("begin", ["", "{% if data %}{% endif %}"])
def test_no_filter_takes_more_than_it_is_worth(text: str, begin: str) -> None:
    data = {"long": "x" * 10_000, "lots": ["x"] * 10_000, "number": -999_999_999, "price": 1, "day": "2026-12-24"}
    check(begin + text)
    assert len(render(begin + text, ADA, data)) < 15


SPENDERS = {
    "filters": ("{{ data.text" + " | title" * 14 + " | first }}") * 30,
    "within a condition": "{% if true %}" + ("{{ data.text" + " | title" * 14 + " | first }}") * 30 + "{% endif %}",
    "lists": "{{ data.list | join }}" * 150,
    "comparisons": "{% if data.text in data.list %}{% endif %}" * 90,
    "what is cut off": "{{ data.text | trim(data.text) | first }}" * 90,
    "many different": "".join(f"{{{{data.a{number:03}}}}}" for number in range(260)),
    "many conditions": "{% if data.text == 1 %}x{% endif %}" * 100,
}


@pytest.mark.parametrize("text", SPENDERS.values(), ids=SPENDERS)
def test_no_template_takes_the_time_of_others(text: str) -> None:
    """What is asked of any brand waits meanwhile, and for what followers are told the whole broker does."""
    data = {"text": "a " * 8000, "list": [""] * 5000}
    spent: list[float] = []
    for attempt in range(3):
        fresh = " " * attempt + text.replace("data.a", f"data.a{attempt}")
        check(fresh)
        began = time.thread_time()
        render(fresh, ADA, data)
        spent.append(time.thread_time() - began)
    assert min(spent) < 0.05


def test_what_is_left_out_of_a_template_that_looks_at_too_much_is_its_end() -> None:
    text = "before " + "{{ data.text | upper | first }}" * 30 + " after"
    assert render(text, ADA, {"text": "a" * 10_000}) == "before AAA"


def test_what_says_too_much_is_refused() -> None:
    with pytest.raises(Refused, match="too much"):
        check("{{ data.price }} and " * 1000)


def test_what_comes_out_is_bounded() -> None:
    assert len(render("{{ data.long }}" * 10, ADA, {"long": "x" * 10_000})) == RENDERED_MAX


@given(st.text(alphabet="{}%user.data|_[]()'\"~*+-/ \n09aif endset", max_size=60))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    try:
        check(text)
    except Refused:
        return
    assert len(render(text, ADA, DATA)) <= RENDERED_MAX
