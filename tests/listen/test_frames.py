"""What comes out of a client's frames, checked against the library's own parser, which is another one."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from support.web import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame
from websockets.frames import Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, SERVER, Protocol

from broker.listen.frames import Frames

SIZES = st.sampled_from([0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 65535, 65536])
KINDS = st.sampled_from([BINARY] * 6 + [CONT] * 3 + [PING, PONG, CLOSE, TEXT, 3, 7, 11, 15])


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    """Mostly what a client sends; now and then what it may not."""
    rarely = st.integers(0, 30).map(lambda n: n == 7)
    kind = draw(KINDS)
    if kind == CLOSE:
        data = draw(
            st.sampled_from([b"", b"\x03", b"\x03\xe8", b"\x03\xe8bye", b"\x03\xed", b"\x03\xe8\xff", b"\x0b\xb8"])
        )
    else:
        size = draw(SIZES)
        data = bytes(n * 7 & 255 for n in range(min(size, 125 if kind & 8 and not draw(rarely) else size)))
    fin = not draw(rarely) if kind & 8 else draw(st.booleans())
    return frame(kind, data, fin=fin, masked=not draw(rarely), rsv=draw(rarely))


def _by_the_library(data: bytes) -> tuple[bytes, bytes | None, Protocol]:
    protocol = Protocol(SERVER, state=OPEN, max_size=None)
    protocol.receive_data(data)
    payload, ping = [], None
    for event in protocol.events_received():
        assert not isinstance(event, (Request, Response))
        if event.opcode is Opcode.TEXT:
            if protocol.state is OPEN:
                protocol.fail(1003)
            break
        if event.opcode is Opcode.PING:
            ping = bytes(event.data)
        elif event.opcode in (Opcode.BINARY, Opcode.CONT):
            payload.append(bytes(event.data))
    return b"".join(payload), ping, protocol


def _in_pieces(data: bytes, cuts: list[int]) -> tuple[bytes, Frames]:
    frames = Frames()
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    payload = b""
    for start, stop in pairwise(at):
        payload += frames.unwrap(data[start:stop])
        if frames.goodbye is not None:
            break
    return payload, frames


@given(st.lists(_frames(), max_size=12), st.lists(st.integers(0, 1 << 20), max_size=20))
@example([frame(BINARY, b"a", fin=False), frame(PING, b"p"), frame(CONT, b"b")], list(range(40)))
@example([frame(BINARY, bytes(range(256)) * 300)], list(range(30)))
def test_as_the_library_has_it(sent: list[bytes], cuts: list[int]) -> None:
    data = b"".join(sent)
    payload, ping, protocol = _by_the_library(data)
    ours, frames = _in_pieces(data, cuts)
    assert frames.pong == ping
    assert ours == payload
    if protocol.close_sent is None:
        assert frames.goodbye is None
    elif protocol.close_sent.reason == "incomplete fragmented message":
        assert not frames.error  # RFC 6455 §5.4: a control frame may stand between fragments, Close too
    elif protocol.close_rcvd is not None and not protocol.parser_exc:
        assert not frames.error
        assert frames.goodbye is not None
        assert frames.goodbye == (protocol.close_rcvd.serialize() if protocol.close_rcvd.code != 1005 else b"")
    else:
        assert frames.error
        if "text" not in frames.error:  # one within fragments is wrong in two ways
            assert frames.goodbye == protocol.close_sent.code.to_bytes(2)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=20))
def test_anything(data: bytes, cuts: list[int]) -> None:
    """Whatever the library sees to be wrong, we do; never anything but an answer."""
    protocol = _by_the_library(data)[2]
    _, frames = _in_pieces(data + bytes(12), cuts)  # we look at a header when it is whole
    if protocol.parser_exc is not None and "incomplete fragmented" not in str(protocol.parser_exc):
        assert frames.error


def test_nothing_is_held_back() -> None:
    """A frame may be larger than any memory: its bytes come out as they come in, and are forgotten."""
    frames = Frames()
    data = frame(BINARY)[:1] + b"\xff" + (1 << 62).to_bytes(8) + bytes(4)
    assert frames.unwrap(data) == b""
    for _ in range(100):
        assert frames.unwrap(b"x" * 65536) == b"x" * 65536
    assert not frames.error
