"""Wire cases of every property in every packet: allowed or not, repeated, out of range, cut off."""

from typing import Final

from wire.notation import MQTT5, V5, Table, block, frame

from broker.wire.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)

cases = Table()
good, bad = cases.good, cases.bad


# Packet: who sends it, its bytes around the properties, and the packet for given properties.
HOLDERS: Final = {
    "CONNECT": ("client", 0x10, MQTT5 + "02 0000", "0000", lambda p: Connect("", 5, properties=p)),
    "WILL": (
        "client",
        0x10,
        MQTT5 + "06 0000 00 0000",
        "0001 77 0000",
        lambda p: Connect("", 5, will=Will(b"w", b"", properties=p)),
    ),
    "CONNACK": ("server", 0x20, "00 00", "", lambda p: Connack(properties=p)),
    "PUBLISH": ("both", 0x30, "0001 74", "78", lambda p: Publish(b"t", b"x", properties=p)),
    "PUBACK": ("both", 0x40, "0001 10", "", lambda p: Puback(1, 0x10, p)),
    "PUBREC": ("both", 0x50, "0001 10", "", lambda p: Pubrec(1, 0x10, p)),
    "PUBREL": ("both", 0x62, "0001 92", "", lambda p: Pubrel(1, 0x92, p)),
    "PUBCOMP": ("both", 0x70, "0001 92", "", lambda p: Pubcomp(1, 0x92, p)),
    "SUBSCRIBE": ("client", 0x82, "0001", "0001 61 00", lambda p: Subscribe(1, [Request("a")], p)),
    "SUBACK": ("server", 0x90, "0001", "00", lambda p: Suback(1, [0], p)),
    "UNSUBSCRIBE": ("client", 0xA2, "0001", "0001 61", lambda p: Unsubscribe(1, ["a"], p)),
    "UNSUBACK": ("server", 0xB0, "0001", "00", lambda p: Unsuback(1, [0], p)),
    "DISCONNECT": ("both", 0xE0, "80", "", lambda p: Disconnect(0x80, p)),
    "AUTH": ("both", 0xF0, "18", "", lambda p: Auth(0x18, p)),
}
REASONED: Final = "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"
# Cut off; a name or a value that is not UTF-8 [MQTT-1.5.7-1], or with U+0000.
PAIRS: Final = (
    ("26 0001 6B", 0x81),
    ("26 0001 FF 0001 76", 0x81),
    ("26 0001 6B 0003 EDA080", 0x81),
    ("26 0001 00 0001 76", 0x81),
    ("26 0001 6B 0001 00", 0x81),
)
# Table 2-4 of the specification: bytes, field, value, packets; then values that are refused, with their reason.
PROPERTIES: Final[tuple[tuple[str, str, object, str, tuple[tuple[str, int], ...]], ...]] = (
    ("01 01", "payload_format", 1, "PUBLISH WILL", (("01 02", 0x82), ("01", 0x81))),
    ("02 00000000", "message_expiry", 0, "PUBLISH WILL", (("02 000000", 0x81),)),
    ("03 0001 74", "content_type", "t", "PUBLISH WILL", (("03 0002 74", 0x81), ("03 0001 FF", 0x81), ("03 00", 0x81))),
    ("08 0003 722F74", "response_topic", "r/t", "PUBLISH WILL", (("08 0001 23", 0x82), ("08 0001 00", 0x81))),
    ("09 0002 00FF", "correlation_data", b"\x00\xff", "PUBLISH WILL", (("09 0003 00FF", 0x81),)),
    ("0B 8001", "subscription_ids", [128], "PUBLISH SUBSCRIBE", (("0B 00", 0x82), ("0B 8000", 0x81), ("0B 80", 0x81))),
    ("11 FFFFFFFF", "session_expiry", 0xFFFFFFFF, "CONNECT CONNACK DISCONNECT", (("11 0000", 0x81),)),
    ("12 0001 69", "assigned_client_id", "i", "CONNACK", (("12 0001", 0x81),)),
    ("13 0000", "server_keep_alive", 0, "CONNACK", (("13 00", 0x81),)),
    ("15 0001 6D", "auth_method", "m", "CONNECT CONNACK AUTH", (("15 0002 6D", 0x81),)),
    ("16 0001 64", "auth_data", b"d", "CONNECT CONNACK AUTH", (("16 0002 64", 0x81),)),
    ("17 00", "request_problem_info", 0, "CONNECT", (("17 02", 0x82), ("17", 0x81))),
    ("18 0000000A", "will_delay", 10, "WILL", (("18 00000A", 0x81),)),
    ("19 01", "request_response_info", 1, "CONNECT", (("19 FF", 0x82),)),
    ("1A 0001 72", "response_info", "r", "CONNACK", (("1A 0002 72", 0x81),)),
    ("1C 0001 73", "server_reference", "s", "CONNACK DISCONNECT", (("1C 0002 73", 0x81),)),
    ("1F 0000", "reason_string", "", REASONED, (("1F 0001", 0x81),)),
    ("21 FFFF", "receive_maximum", 65535, "CONNECT CONNACK", (("21 0000", 0x82), ("21 01", 0x81))),
    ("22 0000", "topic_alias_maximum", 0, "CONNECT CONNACK", (("22 00", 0x81),)),
    ("23 0100", "topic_alias", 256, "PUBLISH", (("23 0000", 0x94), ("23 01", 0x81))),
    ("24 00", "maximum_qos", 0, "CONNACK", (("24 02", 0x82),)),
    ("25 01", "retain_available", 1, "CONNACK", (("25 02", 0x82),)),
    ("26 0001 6B 0001 76", "user_properties", [("k", "v")], " ".join(HOLDERS), PAIRS),
    ("27 00000001", "maximum_packet_size", 1, "CONNECT CONNACK", (("27 00000000", 0x82), ("27 000001", 0x81))),
    ("28 00", "wildcard_available", 0, "CONNACK", (("28 02", 0x82),)),
    ("29 01", "subscription_ids_available", 1, "CONNACK", (("29 03", 0x82),)),
    ("2A 01", "shared_available", 1, "CONNACK", (("2A 80", 0x82),)),
)

for holder, (sender, first, before, after, make_packet) in HOLDERS.items():
    # What the holder cannot be without: AUTH its method, CONNECT the method that goes with data.
    for raw, name, value, allowed, refused in PROPERTIES:
        prefix, extra = "", {}
        if name != "auth_method" and (holder == "AUTH" or (holder == "CONNECT" and name == "auth_data")):
            prefix, extra = "15 0001 6D", {"auth_method": "m"}
        label = f"{holder} with {name}"
        if holder not in allowed.split():
            bad(f"{label}, not allowed", V5, sender, frame(first, before, block(prefix, raw), after))  # §2.2.2.2
            continue
        ordered = block(prefix, raw) if int(raw[:2], 16) > 0x15 else block(raw, prefix)
        good(label, V5, sender, frame(first, before, ordered, after), make_packet(Properties(**extra, **{name: value})))
        if name != "user_properties" and (holder, name) != ("PUBLISH", "subscription_ids"):
            bad(f"{label}, repeated", V5, sender, frame(first, before, block(prefix, raw, raw), after), 0x82)
        for value_refused, reason in refused:
            wire = frame(first, before, block(prefix, value_refused), after)
            bad(f"{label}, {value_refused}", V5, sender, wire, reason)  # of user_properties: [MQTT-1.5.7-1]
    for unknown in (0x00, 0x04, 0x0A, 0x14, 0x20, 0x2B, 0x7F, 0x80, 0xFF):
        wire = frame(first, before, block(bytes((unknown, 0))), after)
        bad(f"{holder} with unknown property 0x{unknown:02X}", V5, sender, wire)
