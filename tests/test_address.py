"""URLs to listen on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.address import Listener, parse_listen
from broker.errors import Misconfigured


@pytest.mark.parametrize(
    ("url", "listener", "loopback"),
    [
        ("mqtt://127.0.0.1", Listener("mqtt", "127.0.0.1", 1883), True),
        ("mqtts://[::1]:0", Listener("mqtts", "::1", 0), True),
        ("mqtts://localhost:1/", Listener("mqtts", "localhost", 1), True),
        ("mqtt://0.0.0.0:18830", Listener("mqtt", "0.0.0.0", 18830), False),
        ("mqtt://push.example.com", Listener("mqtt", "push.example.com", 1883), False),
        ("ws://127.0.0.1", Listener("ws", "127.0.0.1", 80), True),
        ("wss://0.0.0.0/mqtt", Listener("wss", "0.0.0.0", 443, "/mqtt"), False),
        ("ws://[::1]:8080/a%20b", Listener("ws", "::1", 8080, "/a%20b"), True),
        ("ws://h:1/a%2Fb/é~(1)", Listener("ws", "h", 1, "/a%2Fb/%C3%A9~(1)"), False),
        ("mqtt+unix:///run/push.sock", Listener("mqtt+unix", path="/run/push.sock"), True),
        ("ws+unix:///run/push.sock?mode=600", Listener("ws+unix", path="/run/push.sock", mode=0o600), True),
        ("mqtt+unix:///s?proxy=unix", Listener("mqtt+unix", path="/s", proxy=("unix",)), False),
        ("mqtt://127.0.0.1?proxy=10.0.0.0/8", Listener("mqtt", "127.0.0.1", 1883, proxy=("10.0.0.0/8",)), False),
        (
            "wss://h:1/p?origin=https://A.example&origin=*&proxy=::1&connections_max=5&connects_per_s=4&bytes_per_s=2",
            Listener("wss", "h", 1, "/p", ("https://a.example", "*"), ("::1/128",), 0o660, 5, 4, 0, 2),
            False,
        ),
    ],
)
def test_an_address(url: str, listener: Listener, loopback: bool) -> None:
    assert parse_listen(url) == listener
    assert parse_listen(listener.url) == listener
    assert parse_listen(listener.address).address == listener.address
    assert listener.loopback is loopback


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is no address"),
        ("1883", "is no address"),
        ("http://h", "is no address"),
        ("mqtt://", "is no address"),
        ("mqtt://h:99999", "out of range"),
        ("mqtt://h:x", "Port could not be cast"),
        ("mqtt://u@h", "is no address"),
        ("mqtt://h/p", "only ws and wss have a path"),
        ("mqtt://h?", "ends in nothing"),
        ("mqtt://h#f", "ends in nothing"),
        ("mqtt://h?origin=https://a", "has no option 'origin'"),
        ("ws://h?mode=660", "has no option 'mode'"),
        ("mqtt://h?q", "has no option 'q'"),
        ("mqtt://h?connection_max=1", "has no option 'connection_max'"),
        ("mqtt://h?connections_max=1&connections_max=2", "stands there twice"),
        ("mqtt://h?connections_max=", "cannot be ''"),
        ("mqtt://h?connections_max=-1", "cannot be '-1'"),
        ("mqtt://h?bytes_per_s=1e3", "cannot be '1e3'"),
        ("mqtt://h?bytes_per_s=\u0661", "cannot be"),
        ("mqtt+unix:///s?mode=999", "cannot be '999'"),
        ("mqtt+unix:///s?mode=1777", "cannot be '1777'"),
        ("mqtt+unix://s", "has the path of a file"),
        ("mqtt+unix:///", "has the path of a file"),
        ("mqtt+unix:///a%00b", "has the path of a file"),
        ("mqtt+unix:///" + "s" * 107, "too long"),
        ("mqtt+unix:///s?proxy=10.0.0.0/8", "has no network"),
        ("mqtt://h?proxy=unix", "is no network"),
        ("mqtt://h?proxy=10.0.0.1/8", "has host bits set"),
        ("ws://h?origin=shop.example", "is no origin"),
        ("ws://h?origin=https://shop.example/page", "is no origin"),
    ],
)
def test_what_is_no_address_is_refused_with_what_would_do(url: str, says: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        parse_listen(url)
    assert says in raised.value.message
    assert raised.value.remedy


def test_a_misspelt_option_is_recognised() -> None:
    with pytest.raises(Misconfigured) as raised:
        parse_listen("mqtt://h?connection_max=1")
    assert raised.value.remedy == "Did you mean 'connections_max'?"


@given(st.text(max_size=40), st.sampled_from(["", "mqtt://", "ws://h/", "mqtt+unix:///", "wss://h?origin="]))
def test_any_text_is_an_address_or_misconfigured(text: str, before: str) -> None:
    try:
        listener = parse_listen(before + text)
    except Misconfigured:
        return
    assert parse_listen(listener.url) == listener
