"""Templates of answers: Jinja2's expressions, sandboxed, and of its statements only `if`.

They come from brands' content, never from who asks. What they may say is what every question can pay for: no loop, no
macro, no call, no arithmetic, so a template costs what it is long. The result is plain text: screens show it as it is.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from jinja2 import ChainableUndefined, Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from broker.errors import Refused
from broker.limits import RENDERED_MAX, TEMPLATE_DEPTH_MAX, TEMPLATE_NODES_MAX
from broker.pull.question import Asker

_ALLOWED: Final = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const,
    nodes.Filter, nodes.Keyword, nodes.Test, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And,
    nodes.Or, nodes.Not,
)  # fmt: skip
_FILTERS: Final = ("capitalize", "date", "default", "first", "int", "join", "last", "length", "lower", "number",
                   "round", "title", "trim", "upper")  # fmt: skip
_TESTS: Final = ("defined", "undefined", "none", "string", "number", "true", "false", "eq", "ne", "in")
_NAMES: Final = ("user", "data")
_MARKED: Final = re.compile(r"\{[{%#]")
_EXPRESSION: Final = re.compile(r"(\{\{[^{}'\"]*\}\})")
# All but expressions in which nothing is quoted, and no space is to be taken away around them.
_STATEMENTS: Final = re.compile(r"\{[%#]|\{\{[-+]|[-+]\}\}|\{\{[^{}]*['\"{]|[^}]\}[^}]*\}\}")
_HINT: Final = "Use {{ user.title }}, {{ data.price }}, filters, and {% if %}: docs/asking.md has all of it."


# Jinja's own `join` and `round` take as much time and memory as they are told to: these do not.
def _join(value: Any, between: str = "") -> str:
    """`['a', 'b']` as 'a, b'; what is no list as it is."""
    if not isinstance(value, list):
        return str(value)
    return str(between)[:16].join(str(one) for one in value[:RENDERED_MAX])[:RENDERED_MAX]


def _round(value: Any, digits: int = 0) -> Any:
    """3.456 as 3.5, or as 3."""
    try:
        rounded = round(float(value), min(max(int(digits), 0), 6))
        return rounded if int(digits) > 0 else int(rounded)
    except (TypeError, ValueError, OverflowError):
        return value


def _number(value: Any, digits: int = 2, sign: str = ",") -> str:
    """3.5 as '3,50'."""
    try:
        return f"{float(value):.{min(max(int(digits), 0), 6)}f}".replace(".", str(sign)[:1])
    except (TypeError, ValueError, OverflowError):
        return str(value)


def _date(value: Any, form: str = "%d.%m.%Y") -> str:
    """'2026-12-24' as '24.12.2026'."""
    try:
        return datetime.fromisoformat(str(value)).strftime(str(form)[:64])
    except ValueError:
        return str(value)


class _Sandbox(ImmutableSandboxedEnvironment):
    """What stands behind a dot is a field, never what Python has by that name."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return obj[argument]
        except (TypeError, LookupError):
            return self.undefined(obj=obj, name=argument)


def _environment() -> _Sandbox:
    made = _Sandbox(undefined=ChainableUndefined, autoescape=False, keep_trailing_newline=True)  # it is no HTML
    made.globals.clear()
    made.filters.update(number=_number, date=_date, join=_join, round=_round)
    made.filters = {name: made.filters[name] for name in _FILTERS}
    made.tests = {name: made.tests[name] for name in _TESTS}
    return made


_ENVIRONMENT: Final = _environment()


def check(text: str) -> None:
    """`Refused`, with where and why, when this is no template of ours."""
    if _MARKED.search(text):
        # Brands' items say much that is like no other's; what is compiled is kept, and this is thrown away.
        _parsed(text)


def blanks(text: str, data: Mapping[str, Any]) -> list[str]:
    """The data that a template says and that are not there, where it does not say what stands there then."""
    if "data" not in text or not _MARKED.search(text):
        return []
    tree = _ENVIRONMENT.parse(text)
    cared = {
        name
        for kind in (nodes.Filter, nodes.Test)
        for node in tree.find_all(kind)
        if node.name in ("default", "defined", "undefined")
        for name in _data(node)
    }
    return sorted(set(_data(tree)) - cared - set(data))


def _data(node: nodes.Node) -> Iterator[str]:
    """The names of data in it."""
    for dot in node.find_all(nodes.Getattr):
        if isinstance(dot.node, nodes.Name) and dot.node.name == "data":
            yield dot.attr
    for bracket in node.find_all(nodes.Getitem):
        if isinstance(bracket.node, nodes.Name) and bracket.node.name == "data":
            assert isinstance(bracket.arg, nodes.Const)  # no other is let in
            yield str(bracket.arg.value)


def render(text: str, asker: Asker, data: Mapping[str, Any]) -> str:
    """A template, filled in. What is not known of somebody is left out; what cannot be said at all, too."""
    if not _MARKED.search(text):
        return text
    user = {
        "title": asker.title,
        "name": asker.user,
        "store": asker.store,
        "language": asker.language,
        "tags": sorted(asker.tags),
        "attributes": dict(asker.attributes),
    }
    names = {"user": user, "data": dict(data)}
    said: list[str] = []
    length = 0
    try:
        for part in _parts(text, names):
            said.append(part)
            length += len(part)
            if length > RENDERED_MAX:
                break
        return "".join(said)[:RENDERED_MAX]
    except (TemplateError, TypeError, ValueError, OverflowError, ArithmeticError):
        return ""  # a filter of something that it is not for: data have changed since the template was checked


def _parts(text: str, names: Mapping[str, Any]) -> Iterator[str]:
    if _STATEMENTS.search(text):
        yield from _compiled(text).generate(names)
        return
    # Of all items that say {{ data.price }} it is compiled once: that takes a millisecond.
    for number, part in enumerate(_EXPRESSION.split(text)):
        yield _compiled(part).render(names) if number % 2 else part


@lru_cache(512)  # 70 KiB each; brands mostly share what they fill in, {{ data.price }}
def _compiled(text: str) -> Template:
    _parsed(text)
    return _ENVIRONMENT.from_string(text)


def _parsed(text: str) -> None:
    try:
        tree = _ENVIRONMENT.parse(text)
        every = list(tree.find_all(nodes.Node))
        for node in every:
            _check_node(node)
        if len(every) > TEMPLATE_NODES_MAX:
            raise _refused(1, "it says too much: there are too many names, filters and conditions in it")
        if _depth(tree) > TEMPLATE_DEPTH_MAX:
            raise _refused(1, "it is too deep")
    except TemplateError as error:
        raise _refused(getattr(error, "lineno", 1), error.message or "it cannot be read") from None
    except RecursionError:
        raise _refused(1, "it is too deep") from None


def _check_node(node: nodes.Node) -> None:
    line = node.lineno
    if not isinstance(node, _ALLOWED):
        raise _refused(line, f"{type(node).__name__.lower()} is not for templates here")
    if isinstance(node, nodes.Name) and node.name not in _NAMES:
        raise _refused(line, f"there is no {node.name!r}, only user and data")
    if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
        raise _refused(line, f"there is no filter {node.name!r}, only {', '.join(_FILTERS)}")
    if isinstance(node, nodes.Test) and node.name not in _TESTS:
        raise _refused(line, f"there is no test {node.name!r}, only {', '.join(_TESTS)}")
    if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        raise _refused(line, f"{node.attr!r} cannot be asked for")
    if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Const):
        raise _refused(line, "what stands in brackets must be a name in quotes, or a number")


def _depth(node: nodes.Node) -> int:
    return 1 + max((_depth(child) for child in node.iter_child_nodes()), default=0)


def _refused(line: int, why: str) -> Refused:
    return Refused(f"template, line {line}: {why}", reason=0x83, remedy=_HINT)
