"""Certificates over MQTT: a device sends its signing request on `$enrol/csr`, the answer comes on `$enrol/certificate`.

Who holds a one-time code gets its first certificate; a device that is connected with one gets the next. The answer goes
to the asking connection only, subscribed or not, and to nobody else.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec

from broker.errors import Failed, Refused
from broker.identity import Identity
from broker.message import Message
from broker.route.access import ENROL_ANSWER
from broker.session.session import Session
from broker.wire.packets import Properties
from broker.wire.publish import forwarded

REQUEST_BYTES_MAX: Final = 16 << 10
# Signing takes a millisecond of CPU and a commit: so many at once leave the loop free for those who are connected.
CONCURRENT_MAX: Final = 64

Sign = Callable[[Identity, str, bytes], Awaitable[dict[str, Any]]]


class Enrolment:
    """Takes signing requests off the loop's hot path and answers them.

    sign(identity, code, csr): the certificate, as the answer's JSON object. `run` gets each request as a coroutine.
    reply(session, message): deliver to one session.
    """

    def __init__(
        self,
        *,
        sign: Sign,
        code_of: Callable[[Session], str],
        run: Callable[[Coroutine[Any, Any, None]], object],
        reply: Callable[[Session, Message], None],
        log: Callable[..., object],
    ) -> None:
        self._sign = sign
        self._code_of = code_of
        self._run = run
        self._reply = reply
        self._log = log
        self._under_way = 0

    def heard(self, message: Message, origin: Session | None) -> None:
        """A signing request was published."""
        if origin is None:
            return
        if len(message.payload) > REQUEST_BYTES_MAX:
            self._answer(origin, {"error": "the signing request is too long", "remedy": "Send one CSR in PEM."})
        elif self._under_way >= CONCURRENT_MAX:
            self._answer(origin, {"error": "too many enrolments at once", "remedy": "Try again in a few seconds."})
        else:
            self._under_way += 1
            self._run(self._enrol(origin, message.payload))

    async def _enrol(self, session: Session, csr: bytes) -> None:
        try:
            answer = await self._sign(session.identity, self._code_of(session), csr)
            self._log("certificate issued", client=session.identity.path)
        except Refused as error:
            answer = {"error": error.message, "remedy": error.remedy}
            self._log("enrolment refused", client=session.identity.path, error=error.message)
        except Exception as error:
            # What ails our disk is for our log, not for a stranger with a code.
            remedy = "Try again later; the broker's log says why."
            answer = {"error": "the certificate could not be made", "remedy": remedy}
            if not isinstance(error, Failed):
                self._answer(session, answer)
                raise
            self._log("enrolment failed", client=session.identity.path, error=error.message)
        finally:
            self._under_way -= 1
        self._answer(session, answer)

    def _answer(self, session: Session, answer: dict[str, Any]) -> None:
        properties = forwarded(Properties(payload_format=1, content_type="application/json"))
        self._reply(session, Message(ENROL_ANSWER, msgspec.json.encode(answer), 1, properties=properties))
