"""The client SDK of pushbroker: receive notifications on a device, send them as a brand, over MQTT 5 and TLS.

On a device, once: `enrol`. Then `Device` (threads) or `AsyncDevice` (asyncio) with the `Credentials` that it saved; a
handler gets each `Message` with its `Notification`; `ask` returns the `Answer` to a question, and `conversation` is
what it is part of. On a brand's server: `Brand` or `AsyncBrand`, whose `send` goes to one topic and whose `push` to
many recipients through the bridge; what they return knows the message's id and gets its `Receipt`s; `content` is its
library of answers, and `on_question` answers what its rules send to its own server. All errors are `PushError`s,
except that a wrong argument is a `ValueError`.
"""

from client_sdk.aio import AsyncBrand, AsyncDevice, AsyncPushed, AsyncSent
from client_sdk.answering import QuestionAsked, Said, ServerAnswer
from client_sdk.asking import Answer, Choice, ConversationEvent, Entry, History
from client_sdk.backoff import Backoff
from client_sdk.brand import Brand, Pushed, Sent
from client_sdk.content import RefusedItem, Stored
from client_sdk.conversation import AsyncConversation, Conversation
from client_sdk.credentials import Credentials
from client_sdk.device import Device
from client_sdk.device_core import Status
from client_sdk.enrolment import enrol
from client_sdk.errors import (
    AskRefused,
    InUse,
    NotEnrolled,
    PushError,
    Refused,
    Rejected,
    Unconfirmed,
    Unreachable,
    Untrusted,
)
from client_sdk.message import Message, Receipt, Reply, Summary
from client_sdk.notification import Action, Notification, Priority
from client_sdk.preferences import Preferences, QuietHours, Wishes
from client_sdk.pushing import PushOptions, To
from client_sdk.sending import SendOptions

__all__ = [
    "Action",
    "Answer",
    "AskRefused",
    "AsyncBrand",
    "AsyncConversation",
    "AsyncDevice",
    "AsyncPushed",
    "AsyncSent",
    "Backoff",
    "Brand",
    "Choice",
    "Conversation",
    "ConversationEvent",
    "Credentials",
    "Device",
    "Entry",
    "History",
    "InUse",
    "Message",
    "NotEnrolled",
    "Notification",
    "Preferences",
    "Priority",
    "PushError",
    "PushOptions",
    "Pushed",
    "QuestionAsked",
    "QuietHours",
    "Receipt",
    "Refused",
    "RefusedItem",
    "Rejected",
    "Reply",
    "Said",
    "SendOptions",
    "Sent",
    "ServerAnswer",
    "Status",
    "Stored",
    "Summary",
    "To",
    "Unconfirmed",
    "Unreachable",
    "Untrusted",
    "Wishes",
    "enrol",
]
