"""A customer's conversation with the brand, as an app on their device has it: for threads, and for asyncio."""

import asyncio
from collections.abc import Callable

from client_sdk.asking import ConversationEvent, History, awaited, waited
from client_sdk.device_core import DeviceCore


class _Listening:
    """Hears what happens to the conversation, from when the app says who is to be told."""

    def __init__(self, core: DeviceCore) -> None:
        self._core = core
        self.handler: Callable[[ConversationEvent], None] | None = None

    def on_event(self, handler: Callable[[ConversationEvent], None]) -> None:
        """Have `handler` told what happens to it: its state is another, the agent is typing, or has read.

        It is called where the other handlers of the device are.
        """
        self.handler = handler
        self._core.listen()

    def typing(self) -> None:
        """Show the agent that the customer is writing; call it once a second while they do."""
        self._core.typing()


class Conversation(_Listening):
    """What the device's user, or who stands before a device without one, and the brand have to say to each other.

    `Device.ask` says something in it. It is answered at once, or a person takes over: their replies are messages
    (`Message.reply` says which entry each is). There is one at a time; after its end the next question begins another.
    """

    def history(self, *, before: int | None = None, most: int = 50, timeout: float = 30.0) -> History:
        """What was said so far: the last `most` entries (1 to 100), or those before entry `before`.

        Raises as `Device.ask`.
        """
        return waited(self._core.history(before, most, timeout), timeout)

    def read(self, entry: int) -> None:
        """Show the agent that everything up to this entry was read. Kept until the broker has it."""
        self._core.read(entry)

    def close(self) -> None:
        """End it: the next question begins a new one. Kept until the broker has it."""
        self._core.end_conversation()


class AsyncConversation(_Listening):
    """As `Conversation`, for asyncio programs."""

    async def history(
        self,
        *,
        before: int | None = None,
        most: int = 50,
        timeout: float = 30.0,  # noqa: ASYNC109 - as `Conversation.history`
    ) -> History:
        """What was said so far. As `Conversation.history`."""
        return await awaited(self._core.history(before, most, timeout), timeout)

    async def read(self, entry: int) -> None:
        """Show the agent that everything up to this entry was read. As `Conversation.read`."""
        await asyncio.to_thread(self._core.read, entry)

    async def close(self) -> None:
        """End it: the next question begins a new one. As `Conversation.close`."""
        await asyncio.to_thread(self._core.end_conversation)
