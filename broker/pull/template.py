"""Templates of answers: Jinja2's expressions, sandboxed, and of its statements only `if`.

They come from brands' content, never from who asks. What they may say is what every question can pay for: no loop, no
macro, no call, no arithmetic. They are parsed by Jinja2 and walked here, not compiled: to compile one of 4,000
characters takes 80 ms. What its filters and comparisons look at is bounded as well. The result is plain text: screens
show it as it is.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from jinja2 import ChainableUndefined, TemplateError, Undefined, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from broker.errors import Refused
from broker.limits import RENDERED_MAX, TEMPLATE_DEPTH_MAX, TEMPLATE_NODES_MAX, TEMPLATE_WORK_MAX
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
# So many expressions, and of so many characters, are kept one by one; of what has more the whole.
_PARTS_MAX: Final = 16
_PART_MAX: Final = 100
_COMPARED: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gteq": operator.ge, "lt": operator.lt,
    "lteq": operator.le, "in": lambda one, many: one in many, "notin": lambda one, many: one not in many,
}  # fmt: skip
_HINT: Final = "Use {{ user.title }}, {{ data.price }}, filters, and {% if %}: docs/asking.md has all of it."


# Jinja's own `join`, `round` and `trim` take as much time and memory as they are told to: these do not.
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


def _trim(value: Any, chars: Any = None) -> str:
    """' a ' as 'a'."""
    return str(value).strip(None if chars is None else str(chars)[:16])


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
    made.filters.update(number=_number, date=_date, join=_join, round=_round, trim=_trim)
    made.filters = {name: made.filters[name] for name in _FILTERS}
    made.tests = {name: made.tests[name] for name in _TESTS}
    return made


_ENVIRONMENT: Final = _environment()


def check(text: str) -> None:
    """`Refused`, with where and why, when this is no template of ours."""
    if _MARKED.search(text):
        # Brands' items say much that is like no other's; what is filled in is kept, and this is thrown away.
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
    """A template, filled in. What is not known of somebody is left out; what cannot be said at all, too.

    What comes after RENDERED_MAX characters, or after more work than TEMPLATE_WORK_MAX, is cut off.
    """
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
    said: list[str] = []
    length = 0
    try:
        for part in _parts(text, _Walk({"user": user, "data": dict(data)})):
            said.append(part)
            length += len(part)
            if length > RENDERED_MAX:
                break
    except _TooMuch:
        pass
    except (Refused, TemplateError, TypeError, ValueError, OverflowError, ArithmeticError):
        return ""  # a filter of something that it is not for: data have changed since the template was checked
    return "".join(said)[:RENDERED_MAX]


def _parts(text: str, walk: "_Walk") -> Iterator[str]:
    if not _STATEMENTS.search(text):
        parts = _EXPRESSION.split(text)
        expressions = parts[1::2]
        if len(expressions) <= _PARTS_MAX and max(map(len, expressions), default=0) <= _PART_MAX:
            # Of all items that say {{ data.price }} it is parsed once: that takes 50 us.
            for number, part in enumerate(parts):
                if number % 2:
                    yield from walk.said(_expression(part).body)
                else:
                    yield part
            return
    yield from walk.said(_whole(text).body)


class _TooMuch(Exception):
    """A template looks at more than a question can pay for."""


class _Walk:
    """Fills in what has been checked, as Jinja2's compiler would."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names
        self._work = 0

    def said(self, body: list[nodes.Node]) -> Iterator[str]:
        """The text of these statements, piece by piece."""
        for node in body:
            if isinstance(node, nodes.If):
                yield from self.said(self._branch(node))
                continue
            assert isinstance(node, nodes.Output)  # no other statement is let in
            for one in node.nodes:
                if isinstance(one, nodes.TemplateData):
                    yield one.data
                else:
                    value = self._value(one)
                    self._pay(value)
                    yield str(value)

    def _branch(self, node: nodes.If) -> list[nodes.Node]:
        for one in (node, *node.elif_):
            if self._value(one.test):
                return one.body
        return node.else_

    def _pay(self, *values: Any) -> None:
        """Raise `_TooMuch` where these are more than may be looked at."""
        self._work += sum(map(_size, values))
        if self._work > TEMPLATE_WORK_MAX:
            raise _TooMuch

    def _value(self, node: nodes.Node) -> Any:
        match node:
            case nodes.Const():
                return node.value
            case nodes.TemplateData():
                return node.data
            case nodes.Name():
                return self._names[node.name]
            case nodes.Getattr():
                return _ENVIRONMENT.getattr(self._value(node.node), node.attr)
            case nodes.Getitem():
                return _ENVIRONMENT.getitem(self._value(node.node), self._value(node.arg))
            case nodes.And():
                return self._value(node.left) and self._value(node.right)
            case nodes.Or():
                return self._value(node.left) or self._value(node.right)
            case nodes.Not():
                return not self._value(node.node)
            case nodes.CondExpr():
                if self._value(node.test):
                    return self._value(node.expr1)
                return Undefined() if node.expr2 is None else self._value(node.expr2)
            case nodes.Compare():
                return self._compared(node)
            case nodes.Filter() | nodes.Test():
                return self._called(node)
        raise _refused(node.lineno, f"{type(node).__name__.lower()} is not for templates here")

    def _compared(self, node: nodes.Compare) -> Any:
        """Of a < b < c the first that does not hold, as in Python."""
        left, holds = self._value(node.expr), True
        for operand in node.ops:
            right = self._value(operand.expr)
            self._pay(left, right)
            holds = _COMPARED[operand.op](left, right)
            if not holds:
                break
            left = right
        return holds

    def _called(self, node: nodes.Filter | nodes.Test) -> Any:
        assert node.node is not None  # that is a block of its own, and not let in
        value = self._value(node.node)
        args = [self._value(one) for one in node.args]
        named = {str(one.key): self._value(one.value) for one in node.kwargs}
        self._pay(value, args, named)
        call = _ENVIRONMENT.call_filter if isinstance(node, nodes.Filter) else _ENVIRONMENT.call_test
        return call(node.name, value, args, named)


def _size(value: Any) -> int:
    """How much there is to look at: characters, and what lists and mappings have."""
    match value:
        case str():
            return 1 + len(value)
        case dict():
            return 1 + sum(map(_size, value)) + sum(map(_size, value.values()))
        case list():
            return 1 + sum(map(_size, value))
    return 1


@lru_cache(512)  # 2 KiB each; brands mostly share what they fill in, {{ data.price }}
def _expression(text: str) -> nodes.Template:
    return _parsed(text)


@lru_cache(64)  # 400 KiB each at worst
def _whole(text: str) -> nodes.Template:
    return _parsed(text)


def _parsed(text: str) -> nodes.Template:
    """What it says. Raises `Refused`."""
    try:
        tree = _ENVIRONMENT.parse(text)
        every = list(tree.find_all(nodes.Node))
        for node in every:
            _check_node(node)
        if len(every) > TEMPLATE_NODES_MAX:
            raise _refused(1, "it says too much: there are too many names, filters and conditions in it")
        if _depth(tree) > TEMPLATE_DEPTH_MAX:
            raise _refused(1, "it is too deep")
        return tree
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
    if isinstance(node, nodes.Filter | nodes.Test) and (node.dyn_args is not None or node.dyn_kwargs is not None):
        raise _refused(line, f"{node.name} wants its values one by one, without *")


def _depth(node: nodes.Node) -> int:
    return 1 + max((_depth(child) for child in node.iter_child_nodes()), default=0)


def _refused(line: int, why: str) -> Refused:
    return Refused(f"template, line {line}: {why}", reason=0x83, remedy=_HINT)
