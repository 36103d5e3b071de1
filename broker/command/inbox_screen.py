"""The inbox as a full screen: who waits on the left, what was said on the right, a line to answer below.

All that it knows it has from the operations of the inbox: a list when it begins and after a break, then what happens.
Customers' words are text and nothing else: no markup, no control characters.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.css.query import NoMatches
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Label, ListItem, ListView, OptionList, RichLog, Static
from textual.widgets.option_list import Option

from broker.command.output import printable
from broker.errors import PushbrokerError, Unreachable

PAGE: Final = 200
ENTRIES_MOST: Final = 1000
RETRY_S: Final = 1.0
TYPING_S: Final = 2.0  # so often it is said
_ORDER: Final = {"waiting": 0, "agent": 1, "automated": 2, "closed": 3}
_FRESH_S: Final = 6.0  # so long a customer counts as writing
LOOK_S: Final = 3.0  # between two looks at what became of a reply,
WATCHED_S: Final = 30.0  # for so long


class Stream(Protocol):
    """What happens, one thing after the other."""

    def __iter__(self) -> Iterator[Any]:
        """What comes. Raises `Unreachable` when the broker is gone."""
        ...

    def close(self) -> None:
        """Let go of it, which ends whoever waits."""
        ...


class Desk(Protocol):
    """The operations of `broker.admin`, as commands reach them."""

    def call(self, operation: str, /, **arguments: Any) -> Any:
        """Do one."""
        ...

    def stream(self, operation: str, /, **arguments: Any) -> Stream:
        """Do one that goes on."""
        ...


class InboxScreen(App[None]):
    """The inbox of one brand, for one agent."""

    CSS = """
    #conversations { width: 34; border-right: solid $primary; }
    #with { height: 1; text-style: bold; }
    #said { height: 1fr; scrollbar-size-vertical: 1; }
    #notice { height: 1; color: $warning; }
    #reply { height: 3; }
    Pick, Sure, Keys { align: center middle; }
    #picking { width: 60; height: 16; border: round $primary; background: $surface; padding: 0 1; }
    #keys { width: 60; height: auto; border: round $primary; background: $surface; padding: 0 1; }
    #sure { width: 50; height: 5; border: round $primary; background: $surface; padding: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "take", "Take", tooltip="take the conversation: you answer"),
        Binding("r", "reply", "Reply", tooltip="write a reply, Enter sends it"),
        Binding("n", "note", "Note", tooltip="write a note, which the customer never sees"),
        Binding("ctrl+r", "canned", "Canned", priority=True, tooltip="choose a reply that is ready"),
        Binding("b", "hand_back", "Back", tooltip="hand back: the automation answers"),
        Binding("c", "close", "Close", tooltip="close the conversation"),
        Binding("a", "assign", "Assign", tooltip="give it to another agent"),
        Binding("slash", "filter", "Filter", key_display="/", tooltip="show only some conversations"),
        Binding("o", "older", "Older", tooltip="show what was said before"),
        Binding("x", "closed", "Closed too", show=False, tooltip="show closed conversations, too, or hide them"),
        Binding("question_mark", "keys", "Keys", key_display="?", tooltip="show these keys, or hide them"),
        Binding(
            "escape", "list", "List", show=False, priority=True, key_display="Esc",
            tooltip="go back to the list, and to what was said last",
        ),
        Binding("q", "quit", "Quit", tooltip="leave"),
    ]  # fmt: skip
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, desk: Desk, brand: str, agent: str) -> None:
        super().__init__()
        self._desk = desk
        self._brand = brand
        self._agent = agent
        self._all: dict[str, dict[str, Any]] = {}
        self._shown = ""  # the id of the conversation on the right
        self._drawn = ""  # the conversation that is there now
        self._look_at = 0.0  # when there may be news of a reply; 0: none is on its way
        self._most = PAGE
        self._before = 0  # the entry before which is shown what was said; 0: the last of all
        self._first = 0  # the first entry that is shown
        self._listing = asyncio.Lock()  # one at a time draws the list,
        self._showing = asyncio.Lock()  # and one what was said: else what was found first could be drawn last
        self._mode = "reply"  # what the line is for: reply, note, filter
        self._drafts: dict[str, str] = {}
        self._filter = ""
        self._with_closed = False
        self._writing: dict[str, float] = {}  # until when customers do
        self._typed = 0.0
        self._stream: Stream | None = None
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="inbox")

    def compose(self) -> ComposeResult:
        """The parts of the screen."""
        with Horizontal():
            yield ListView(id="conversations")
            with Vertical():
                yield Static(id="with", markup=False)
                yield RichLog(id="said", wrap=True, min_width=1, markup=False, highlight=False, auto_scroll=True)
                yield Static(id="notice", markup=False)
                yield Input(id="reply", placeholder="choose a conversation with the arrow keys")
        yield Footer()

    def on_mount(self) -> None:
        """Begin."""
        self.title = f"{self._brand}: {self._agent}"
        self._watcher.start()
        self.set_interval(1.0, self._tick)
        self.query_one("#conversations").focus()

    async def on_unmount(self) -> None:
        """End what goes on beside."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.close()
        await asyncio.to_thread(self._watcher.join, 5)

    # -- what happens --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """On a thread of its own: see what happens, for ever."""
        while not self._stopped.is_set():
            try:
                self._stream = stream = self._desk.stream("inbox.watch", brand=self._brand)
                self._tell(self._begin_anew)
                for event in stream:
                    self._tell(self._happened, event)
            except Unreachable:
                self._tell(self._say, "the broker is gone; trying again")
                self._stopped.wait(RETRY_S)
            except PushbrokerError as error:
                self._tell(self._say, error.message)
                self._stopped.wait(RETRY_S)
            except Exception as error:  # noqa: BLE001 - it is said: else the screen would show what was, and nobody knew
                if not self._stopped.is_set():  # else the screen has closed the stream, or has ended, in the middle
                    self._tell(self._say, f"unexpected, trying again: {error!r}")
                    self._stopped.wait(RETRY_S)
            finally:
                if self._stream is not None:
                    self._stream.close()

    def _tell(self, function: Callable[..., object], *arguments: object) -> None:
        if not self._stopped.is_set():
            self.call_from_thread(function, *arguments)

    async def _begin_anew(self) -> None:
        """See how all is: at the beginning, and after a break."""
        states = ("held", "closed") if self._with_closed else ("held",)
        try:
            found = [
                one
                for state in states
                for one in await self._call("inbox.list", brand=self._brand, state=state, most=500)
            ]
        except PushbrokerError as error:
            self._say(error.message)
            return
        self._all = {one["id"]: one for one in found}
        self._say("")
        await self._list()
        if self._shown:
            await self._show(self._shown)

    async def _happened(self, event: Mapping[str, Any]) -> None:
        one, what = dict(event["conversation"]), event["event"]
        id = one["id"]
        if what == "typing":
            if event.get("by") == "customer":
                self._writing[id] = time.monotonic() + _FRESH_S
            self._tick()
            return
        if what == "said":
            self._writing.pop(id, None)
        if one["state"] in ("automated", "closed") and not self._with_closed and id != self._shown:
            self._all.pop(id, None)
        else:
            self._all[id] = one
        if what in ("waiting", "reminded") and one["agent"] in ("", self._agent):
            self.bell()
            self.notify(printable(f"{_name(one)}: {one['last']}"), title="somebody waits", markup=False)
        await self._list()
        if id == self._shown:
            await self._show(id)

    # -- what is shown -------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        async with self._listing:
            await self._draw_list()

    async def _draw_list(self) -> None:
        view = self.query_one("#conversations", ListView)
        wanted = self._filter.casefold()
        ones = [one for one in self._all.values() if wanted in _line(one, "").plain.casefold()]
        ones.sort(key=lambda one: (_ORDER[one["state"]], one["agent"] != self._agent, one["waiting_since"] or "~"))
        ids = [one["id"] for one in ones]
        await view.clear()
        await view.extend(_Row(one, self._agent) for one in ones)
        # Never another one than is shown: what is being typed would go to another customer.
        here = self._shown or (ids[0] if ids else "")
        view.index = ids.index(here) if here in ids else None

    async def on_list_view_highlighted(self, event: ListView.Highlighted) -> None:
        """Another conversation is chosen."""
        if isinstance(event.item, _Row) and event.item.conversation != self._shown:
            self._keep_draft()
            self._most, self._before = PAGE, 0
            self._shown = event.item.conversation
            await self._show(self._shown)
            self._reply_to()

    async def _show(self, id: str) -> None:
        """What was said in a conversation; that the agent has seen it, where it is theirs."""
        async with self._showing:
            if id == self._shown:
                await self._draw(id)

    async def _draw(self, id: str) -> None:
        before, most = self._before, self._most
        try:
            shown = await self._call("inbox.show", brand=self._brand, conversation=id, before=before, most=most)
            if shown["agent"] == self._agent and shown["unread"]:
                await self._call("inbox.read", brand=self._brand, conversation=id, agent=self._agent)
        except PushbrokerError as error:
            self._say(error.message)
            return
        if (id, before) != (self._shown, self._before):
            return
        self._first = shown["entries"][0]["number"] if shown["entries"] else 0
        store = f" in {shown['store']}" if shown["store"] else ""
        state = f"{shown['state']} {shown['agent']}".strip()
        state = f"{state}; Escape: newest" if before else state
        self.query_one("#with", Static).update(printable(f"{_name(shown)} ({shown['with']}){store}, {state}"))
        said = self.query_one("#said", RichLog)
        at_end, place = said.is_vertical_scroll_end or id != self._drawn, said.scroll_y
        said.clear()
        for entry in shown["entries"]:
            for line in _lines(entry):
                said.write(line, expand=True, scroll_end=at_end)
        if not at_end:  # who reads further up goes on reading there
            self.call_after_refresh(said.scroll_to, y=place, animate=False)
        self._drawn = id
        self._look_at = time.monotonic() + LOOK_S if _on_its_way(shown["entries"]) else 0.0

    def _tick(self) -> None:
        with suppress(NoMatches):
            until = self._writing.get(self._shown, 0.0)
            if time.monotonic() < until:
                self._say("the customer is writing …")
            elif until:
                del self._writing[self._shown]
                self._say("")
            for row in self.query(_Row):
                row.refresh_line()
            if self._look_at and time.monotonic() > self._look_at:
                self._look_at = 0.0
                self.run_worker(self._show(self._shown))

    def _say(self, words: str) -> None:
        with suppress(NoMatches):
            self.query_one("#notice", Static).update(printable(words))

    # -- what is typed -------------------------------------------------------------------------------------------------

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """A reply, a note, or a filter is done. What could not be sent stays."""
        words = event.value.strip()
        if self._mode == "filter":
            self._filter = words
            await self._list()
        elif words and self._shown:
            operation = "inbox.note" if self._mode == "note" else "inbox.reply"
            if not await self._do(operation, text=words):
                return
            self._to_newest()
        mode = self._mode
        if mode == "reply":
            self._drafts.pop(self._shown, None)
        self._reply_to()
        if mode != "reply":
            self.action_list()

    def on_input_changed(self, event: Input.Changed) -> None:
        """The customer sees that somebody is writing."""
        now = time.monotonic()
        mine = self._all.get(self._shown, {}).get("agent") == self._agent
        if event.value and self._mode == "reply" and mine and now > self._typed + TYPING_S:
            self._typed = now
            self.run_worker(self._do("inbox.typing", quiet=True))

    def _keep_draft(self) -> None:
        if self._mode == "reply" and self._shown:
            self._drafts[self._shown] = self.query_one("#reply", Input).value

    def _reply_to(self) -> None:
        self._set_mode("reply", "reply, Enter sends" if self._shown else "", self._drafts.get(self._shown, ""))

    def _set_mode(self, mode: str, words: str, value: str = "") -> None:
        self._mode = mode
        line = self.query_one("#reply", Input)
        line.placeholder = words
        with line.prevent(Input.Changed):
            line.value = value

    # -- what is done --------------------------------------------------------------------------------------------------

    async def _call(self, operation: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(lambda: self._desk.call(operation, **arguments))

    async def _do(self, operation: str, *, quiet: bool = False, **arguments: Any) -> bool:
        """Do something with the conversation that is shown; whether it was done."""
        if not self._shown:
            self._say("choose a conversation first")
            return False
        given = {"brand": self._brand, "conversation": self._shown, "agent": self._agent, **arguments}
        try:
            await self._call(operation, **given)
        except PushbrokerError as error:
            if not quiet:
                self._say(f"{error.message}. {error.remedy}" if error.remedy else error.message)
            return False
        if not quiet:
            self._say("")
        return True

    async def action_take(self) -> None:
        """Take the conversation."""
        if await self._do("inbox.take"):
            self.action_reply()

    def action_reply(self) -> None:
        """Write a reply."""
        self._reply_to()
        self.query_one("#reply").focus()

    def action_note(self) -> None:
        """Write a note, which the customer never sees."""
        self._keep_draft()
        self._set_mode("note", "note: only agents see it")
        self.query_one("#reply").focus()

    def action_filter(self) -> None:
        """Show only some."""
        self._keep_draft()
        self._set_mode("filter", "show only those with these words", self._filter)
        self.query_one("#reply").focus()

    def action_list(self) -> None:
        """Back to the list, and to what was said last; what was typed stays."""
        if len(self.screen_stack) > 1:
            self.pop_screen()
            return
        self._keep_draft()
        self._reply_to()
        self.query_one("#conversations").focus()
        self._to_newest()

    def _to_newest(self) -> None:
        if self._before:
            self._before = 0
            self.query_one("#said", RichLog).scroll_end(animate=False)
            self.run_worker(self._show(self._shown))

    async def action_hand_back(self) -> None:
        """Let the automation answer again."""
        await self._do("inbox.hand_back")

    def action_close(self) -> None:
        """Close the conversation, if that is meant."""
        if self._shown:
            name = _name(self._all.get(self._shown, {"with": "", "title": ""}))
            self.push_screen(Sure(f"Close the conversation with {name}?"), self._close_if)

    async def _close_if(self, sure: bool | None) -> None:
        if sure:
            await self._do("inbox.close")

    async def action_assign(self) -> None:
        """Give it to another agent."""
        try:
            agents = await self._call("agent.list", brand=self._brand)
        except PushbrokerError as error:
            self._say(error.message)
            return
        rows = [(one["name"], f"{one['name']}  {one['title']}{'  (away)' if one['away'] else ''}") for one in agents]
        self.push_screen(Pick("give it to", rows), self._assign_to)

    async def _assign_to(self, name: str | None) -> None:
        if name:
            await self._do("inbox.assign", to=name)

    async def action_canned(self) -> None:
        """Choose a reply that is ready."""
        if len(self.screen_stack) > 1:  # a key that is heard everywhere, also where something else is asked
            return
        try:
            ready = await self._call("canned.list", brand=self._brand)
        except PushbrokerError as error:
            self._say(error.message)
            return
        rows = {one["name"]: f"{one['name']}  {one['text']}" for one in ready}
        self.push_screen(Pick("send", list(rows.items())), self._send_canned)

    async def _send_canned(self, name: str | None) -> None:
        if name:
            await self._do("inbox.reply", canned=name)

    async def action_older(self) -> None:
        """See more of what was said: as much as is shown at once, then what was before that."""
        if not self._shown:
            return
        if self._first <= 1:
            self._say("this is the beginning of the conversation")
        elif self._most < ENTRIES_MOST:
            self._most = min(self._most + PAGE, ENTRIES_MOST)
        else:
            self._before = self._first
        await self._show(self._shown)
        self.query_one("#said", RichLog).scroll_home(animate=False)

    async def action_closed(self) -> None:
        """See closed ones, too, or not any more."""
        self._with_closed = not self._with_closed
        await self._begin_anew()

    def action_keys(self) -> None:
        """Show all keys."""
        if len(self.screen_stack) == 1:
            self.push_screen(Keys())


class _Row(ListItem):
    """A conversation in the list."""

    def __init__(self, one: Mapping[str, Any], agent: str) -> None:
        self._one = one
        self._agent = agent
        self.conversation: str = one["id"]
        self._label = Label(_line(one, agent), markup=False)
        super().__init__(self._label)

    def refresh_line(self) -> None:
        """Time goes by for who waits."""
        self._label.update(_line(self._one, self._agent))


class Keys(ModalScreen[None]):
    """What each key does."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark,q", "app.pop_screen", "Hide")]

    def compose(self) -> ComposeResult:
        """A line for each."""
        bindings = [one for one in InboxScreen.BINDINGS if isinstance(one, Binding)]
        lines = [f"{self.app.get_key_display(one):>3}  {one.tooltip}" for one in bindings]
        with Vertical(id="keys"):
            yield Static("\n".join(lines), markup=False)


class Sure(ModalScreen[bool]):
    """Asks before something is done."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("y", "answer(True)", "Yes"), Binding("n", "answer(False)", "No")]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question."""
        with Vertical(id="sure"):
            yield Label(printable(self._question), markup=False)
            yield Label("y: yes, n: no", markup=False)

    def action_answer(self, sure: bool) -> None:
        """That is the answer."""
        self.dismiss(sure)


class Pick(ModalScreen[str]):
    """One of several, by name: type to search, Enter takes."""

    def __init__(self, what: str, rows: list[tuple[str, str]]) -> None:
        super().__init__()
        self._what = what
        self._rows = rows

    def compose(self) -> ComposeResult:
        """A line to search with, and the list."""
        with Vertical(id="picking"):
            yield Input(placeholder=self._what, id="search")
            yield OptionList(id="found", markup=False)

    def on_mount(self) -> None:
        """Show all."""
        self._find("")

    def _find(self, wanted: str) -> None:
        found = self.query_one("#found", OptionList)
        found.clear_options()
        found.add_options(
            Option(Text(printable(row)), id=name) for name, row in self._rows if wanted.casefold() in row.casefold()
        )
        if found.option_count:
            found.highlighted = 0

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search."""
        event.stop()  # it is nothing that is said to a customer
        self._find(event.value)

    def on_key(self, event: Any) -> None:
        """The arrows choose while one types."""
        if event.key in ("up", "down"):
            found = self.query_one("#found", OptionList)
            found.action_cursor_up() if event.key == "up" else found.action_cursor_down()
            event.stop()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take it."""
        event.stop()
        found = self.query_one("#found", OptionList)
        if found.highlighted is not None:
            self.dismiss(found.get_option_at_index(found.highlighted).id)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take it."""
        self.dismiss(event.option.id)


def _name(one: Mapping[str, Any]) -> str:
    return str(one["title"] or str(one["with"]).partition("/")[2])


def _line(one: Mapping[str, Any], agent: str) -> Text:
    """A conversation in the list: whether there is something new, who, how it is, the last words."""
    new = f"{one['unread']:>2} " if one["unread"] else "   "
    if one["state"] == "waiting":
        how, style = f"waits {_since(one['waiting_since'])}", "bold"
    elif one["state"] == "agent":
        how, style = ("yours", "") if one["agent"] == agent else (one["agent"], "dim")
    else:
        how, style = one["state"], "dim"
    first, second = printable(f"{new}{_name(one)[:16]:<16} {how}"), printable(f"   {one['last'][:28]}")
    return Text(f"{first}\n{second}", style=style)


def _since(at: str | None) -> str:
    """How long that is ago."""
    if not at:
        return ""
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())
    return f"{seconds // 60}m" if seconds < 3600 else f"{seconds // 3600}h"


def _lines(entry: Mapping[str, Any]) -> list[Text]:
    """An entry, with what the automation answered under it."""
    at, text = str(entry["at"])[11:16], _plain(entry["text"])
    match entry["author"]:
        case "customer":
            said = [Text.assemble((f"{at} ", "dim"), text)]
        case "note":
            said = [Text(f"{at} note by {printable(entry['who'])}: {text}", style="italic")]
        case "agent":
            tick = "✓✓" if entry["displayed_at"] else "✓" if entry["delivered_at"] else "…"
            said = [Text(f"{at} {printable(entry['who'])}: {text} {tick}", style="bold", justify="right")]
        case _:
            said = [Text(f"{at} {text}", style="dim")]
    answer = entry["answer"] or {}
    if answer.get("text"):
        by = "automation" if answer.get("by", "automation") == "automation" else "server"
        said.append(Text(f"{at} {by}: {_plain(answer['text'])}", style="dim", justify="right"))
    if answer.get("choices"):
        choices = "  ".join(f"[{printable(one['title'])}]" for one in answer["choices"])
        said.append(Text(choices, style="dim", justify="right"))
    return said


def _on_its_way(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the customer may be about to see the last reply: each look is a line of the audit log."""
    replies = [one for one in entries if one["author"] == "agent"]
    if not replies or replies[-1]["displayed_at"]:
        return False
    return (datetime.now(UTC) - datetime.fromisoformat(replies[-1]["at"])).total_seconds() < WATCHED_S


def _plain(text: str) -> str:
    """What somebody said, its lines kept, and nothing that a terminal would obey."""
    return "\n".join(printable(line) for line in text.splitlines())
