"""What an input costs: time in proportion to its size, up to a packet of the largest size.

An input says how to make a large one: a beginning, and a chunk that is repeated. Anything quadratic takes minutes for a
mebibyte; the bound is a hundred times what honest work takes, and is measured in CPU time, so a busy machine does not
fail it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from fuzz.payloads import _csr, _operation, _receipt
from fuzz.target import Target
from fuzz.websocket import OPENING, converse

from broker.errors import ProtocolError
from broker.listen.proxy import parse
from broker.wire.codes import V4, V5
from broker.wire.decode import decode
from broker.wire.encode import encode
from broker.wire.primitives import encode_varint
from broker.wire.topics import check_filter, check_topic_name, covers, filter_fits, matches

_FIXED_S, _BYTE_S = 0.2, 4e-6


def run(data: bytes) -> None:
    """What reads it, how large it is, how long its beginning is; the beginning; what is repeated."""
    if len(data) < 4:
        return
    kind, options, cut = data[0], data[1], data[2] % 16
    chunk = data[3 + cut :] or b"\0"
    block = chunk * max(1, (1 << 10 + options % 11) // len(chunk))
    if options & 0x80:
        block = encode_varint(len(block)) + block
    large = data[3 : 3 + cut] + block
    work = _KINDS[kind % len(_KINDS)]
    # Once more if it was too slow: that may have been the garbage collector's turn.
    spent = min(_seconds(work, large) for _ in range(2)) if _seconds(work, large) > _bound(large) else 0.0
    assert spent <= _bound(large), f"{spent:.2f} s of CPU for {len(large)} bytes"


def _bound(large: bytes) -> float:
    return _FIXED_S + len(large) * _BYTE_S


def _seconds(work: Callable[[bytes], object], large: bytes) -> float:
    start = time.process_time()
    work(large)
    return time.process_time() - start


def _packet(large: bytes) -> None:
    for version in (V4, V5):
        with suppress(ProtocolError):
            encode(decode(large[0], large[1:], version), version)


def _topics(large: bytes) -> None:
    with suppress(ProtocolError):
        check_topic_name(large)
    text = large.decode("latin-1").replace("\0", "")
    with suppress(ProtocolError):
        check_filter(text)
        filter_fits(text)
        matches(text, text)
        covers(text, text)


def _header(large: bytes) -> None:
    with suppress(ProtocolError):
        parse(large)


def _frames(large: bytes) -> None:
    converse(large if large.startswith(b"G") else OPENING + large, 1 << 16)


_KINDS = [_packet, _topics, _header, _frames, _receipt, _operation, _csr]


def seeds() -> Iterator[bytes]:
    """For each reader, what is repeated in it: levels, properties, filters, headers, brackets."""
    full = 10  # 2^20
    chunks = {
        0: [b"/", b"\x26\0\0\0\0", b"\0\1a\0", b"\0\1a", b"\x0b\1", b"\0\2a/\1", b"\xff\xff", b"\0"],
        1: [b"/", b"+/", b"a", b"#/", b"$share/", "é".encode()],
        2: [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n", b"a "],
        3: [b"\x82\x80\0\0\0\0", b"\x89\x80\0\0\0\0", b"X: y\r\n", b"\x02\x81\0\0\0\0a"],
        4: [b"[", b'{"a":', b'"a"', b" "],
        5: [b"[", b'{"a":', b'"a"', b" "],
        6: [b"-----BEGIN CERTIFICATE REQUEST-----\n", b"MIIB", b"0\x80"],
    }
    starts = {
        0: [b"\x30", b"\x30\0\1t", b"\x82\0\1", b"\x82\0\1\0", b"\xa2\0\1\0", b"\x90\0\1\0", b"\x10\0\4MQTT\5\2\0\0"],
        3: [b"", b"GET /mqtt HTTP/1.1\r\n"[:15]],
        4: [b"", b'{"x": '],
        5: [b"", b'\0{"x": '],
    }
    for kind, repeated in chunks.items():
        for start in starts.get(kind, [b""]):
            for chunk in repeated:
                for options in (full, full | 0x80) if kind == 0 else (full,):
                    yield bytes((kind, options, len(start))) + start + chunk


TARGET = Target("effort", "what large inputs cost", run, seeds, bytes_max=100, runs_in_ci=0)
