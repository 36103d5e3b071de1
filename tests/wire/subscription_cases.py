"""Wire cases of SUBSCRIBE, UNSUBSCRIBE and their acknowledgements."""

from wire.notation import BOTH_VERSIONS, V4, V5, Table, block, field, frame

from broker.wire.packets import Properties, Request, Suback, Subscribe, Unsuback, Unsubscribe

cases = Table()
good, bad = cases.good, cases.bad

# -- SUBSCRIBE, SUBACK -------------------------------------------------------------------------------------------------

for qos in (0, 1, 2):
    good(
        f"SUBSCRIBE QoS {qos}",
        V4,
        "client",
        frame(0x82, "0001", field("a/+"), qos),
        Subscribe(1, [Request("a/+", qos)]),
    )
    good(
        f"SUBSCRIBE QoS {qos}",
        V5,
        "client",
        frame(0x82, "0001 00", field("a/#"), qos),
        Subscribe(1, [Request("a/#", qos)]),
    )
good(
    "SUBSCRIBE two filters",
    V4,
    "client",
    frame(0x82, "000A", field("a"), 1, field("$share/g/b"), 2),
    Subscribe(10, [Request("a", 1), Request("$share/g/b", 2)]),
)
good(
    "SUBSCRIBE options",
    V5,
    "client",
    frame(0x82, "000A", block("0B 05", "26 0001 61 0001 62"), field("a"), 0x2D, field("b"), 0x10, field("c"), 0x0A),
    Subscribe(
        10,
        [Request("a", 1, True, True, 2), Request("b", 0, False, False, 1), Request("c", 2, False, True, 0)],
        Properties(subscription_ids=[5], user_properties=[("a", "b")]),
    ),
)
good(
    "SUBSCRIBE shared",
    V5,
    "client",
    frame(0x82, "0001 00", field("$share/g/a"), 1),
    Subscribe(1, [Request("$share/g/a", 1)]),
)
for version, properties in ((V4, ""), (V5, "00")):
    # [MQTT-3.8.3-2], 3.1.1 [MQTT-3.8.3-3]
    bad("SUBSCRIBE empty", version, "client", frame(0x82, "0001", properties), 0x82)
    # 3.1.1 [MQTT-2.3.1-1]
    bad("SUBSCRIBE id 0", version, "client", frame(0x82, "0000", properties, field("a"), 0), 0x82)
    bad("SUBSCRIBE without options", version, "client", frame(0x82, "0001", properties, field("a")))
    bad("SUBSCRIBE filter cut off", version, "client", frame(0x82, "0001", properties, "0005 61 00"))
    bad("SUBSCRIBE filter length cut off", version, "client", frame(0x82, "0001", properties, field("a"), 0, "00"))
    # [MQTT-3.8.3-1], 3.1.1 [MQTT-1.5.3-1]
    bad("SUBSCRIBE filter not UTF-8", version, "client", frame(0x82, "0001", properties, field(b"\xfe"), 0))
    # [MQTT-4.7.3-2], 3.1.1 [MQTT-1.5.3-2]
    bad("SUBSCRIBE filter U+0000", version, "client", frame(0x82, "0001", properties, field(b"\x00"), 0))
    bad("SUBSCRIBE id cut off", version, "client", frame(0x82, "00"))
    for wrong in ("", "a#", "#a", "a/#/b", "#/", "a+", "+a/b", "++", "a/##"):
        # [MQTT-4.7.1-1, -2, MQTT-4.7.3-1]
        bad(f"SUBSCRIBE filter {wrong!r}", version, "client", frame(0x82, "0001", properties, field(wrong), 0), 0x8F)
        bad(f"UNSUBSCRIBE filter {wrong!r}", version, "client", frame(0xA2, "0001", properties, field(wrong)), 0x8F)
    for right in ("#", "+", "/", "//", "+/+", "/#", "+/#", "a/+/b", "a/#", "$SYS/#", " ", "A/ä"):
        good(
            f"SUBSCRIBE filter {right!r}",
            version,
            "client",
            frame(0x82, "0001", properties, field(right), 0),
            Subscribe(1, [Request(right)]),
        )
    for flags in (0x80, 0x81, 0x83, 0x86, 0x8A):
        # [MQTT-3.8.1-1]
        bad(f"SUBSCRIBE first byte 0x{flags:02X}", version, "client", frame(flags, "0001", properties, field("a"), 0))
    bad(
        "SUBSCRIBE 1001 filters",
        version,
        "client",
        frame(0x82, "0001", properties, (field("a") + b"\x00") * 1001),
        0x97,
    )
for options in (0x03, 0x04, 0x08, 0x10, 0x40, 0x80):
    # 3.1.1 [MQTT-3.8.3-4]
    bad(f"SUBSCRIBE options 0x{options:02X}", V4, "client", frame(0x82, "0001", field("a"), options))
for options, reason in ((0x03, 0x82), (0x30, 0x82), (0x40, 0x81), (0x80, 0x81), (0xC1, 0x81)):
    # [MQTT-3.8.3-5]
    bad(f"SUBSCRIBE options 0x{options:02X}", V5, "client", frame(0x82, "0001 00", field("a"), options), reason)
for wrong in (
    "$share/",
    "$share/g",
    "$share/g/",
    "$share//a",
    "$share/+/a",
    "$share/#/a",
    "$share/g+/a",
    "$share/g/a#",
):
    # [MQTT-4.8.2-1, -2]
    bad(f"SUBSCRIBE shared {wrong!r}", V5, "client", frame(0x82, "0001 00", field(wrong), 0), 0x8F)
    bad(f"UNSUBSCRIBE shared {wrong!r}", V5, "client", frame(0xA2, "0001 00", field(wrong)), 0x8F)
# [MQTT-3.8.3-4]
bad("SUBSCRIBE no local, shared", V5, "client", frame(0x82, "0001 00", field("$share/g/a"), 0x04), 0x82)
bad("SUBSCRIBE id 0 of a subscription", V5, "client", frame(0x82, "0001", block("0B 00"), field("a"), 0), 0x82)
bad("SUBSCRIBE two subscription ids", V5, "client", frame(0x82, "0001", block("0B 01", "0B 02"), field("a"), 0), 0x82)
bad(
    "SUBSCRIBE subscription id over four bytes",
    V5,
    "client",
    frame(0x82, "0001", block("0B 8080808001"), field("a"), 0),
)
bad("SUBSCRIBE without property length", V5, "client", frame(0x82, "0001"))

good("SUBACK", V4, "server", frame(0x90, "0001 00 01 02 80"), Suback(1, [0, 1, 2, 0x80]))
good("SUBACK", V5, "server", frame(0x90, "0001 00 00 01 02"), Suback(1, [0, 1, 2]))
for reason in bytes.fromhex("80 83 87 8F 91 97 9E A1 A2"):
    good(f"SUBACK 0x{reason:02X}", V5, "server", frame(0x90, "0001 00", reason), Suback(1, [reason]))
good(
    "SUBACK properties",
    V5,
    "server",
    frame(0x90, "0001", block("1F 0001 72", "26 0001 61 0001 62"), 0x02),
    Suback(1, [2], Properties(reason_string="r", user_properties=[("a", "b")])),
)
for reason in (0x03, 0x7F, 0x81, 0x87, 0xFF):
    bad(f"SUBACK code 0x{reason:02X}", V4, "server", frame(0x90, "0001 00", reason), 0x82)
for reason in (0x03, 0x10, 0x11, 0x81, 0x82, 0x92, 0xFF):
    # [MQTT-3.9.3-2]
    bad(f"SUBACK reason 0x{reason:02X}", V5, "server", frame(0x90, "0001 00", reason), 0x82)
for version, properties in ((V4, ""), (V5, "00")):
    bad("SUBACK without reasons", version, "server", frame(0x90, "0001", properties), 0x82)
    bad("SUBACK id 0", version, "server", frame(0x90, "0000", properties, "00"), 0x82)
    bad("SUBACK flags", version, "server", frame(0x92, "0001", properties, "00"))
    bad("SUBACK cut off", version, "server", frame(0x90, "00"))

# -- UNSUBSCRIBE, UNSUBACK ---------------------------------------------------------------------------------------------

good("UNSUBSCRIBE", V4, "client", frame(0xA2, "0001", field("a"), field("b/#")), Unsubscribe(1, ["a", "b/#"]))
good("UNSUBSCRIBE", V5, "client", frame(0xA2, "0001 00", field("a"), field("b/#")), Unsubscribe(1, ["a", "b/#"]))
good(
    "UNSUBSCRIBE user property",
    V5,
    "client",
    frame(0xA2, "0001", block("26 0001 61 0001 62"), field("a")),
    Unsubscribe(1, ["a"], Properties(user_properties=[("a", "b")])),
)
for version, properties in ((V4, ""), (V5, "00")):
    # [MQTT-3.10.3-2]
    bad("UNSUBSCRIBE empty", version, "client", frame(0xA2, "0001", properties), 0x82)
    # 3.1.1 [MQTT-2.3.1-1]
    bad("UNSUBSCRIBE id 0", version, "client", frame(0xA2, "0000", properties, field("a")), 0x82)
    bad("UNSUBSCRIBE filter cut off", version, "client", frame(0xA2, "0001", properties, "0002 61"))
    # [MQTT-3.10.3-1]
    bad("UNSUBSCRIBE filter not UTF-8", version, "client", frame(0xA2, "0001", properties, field(b"\x80")))
    bad("UNSUBSCRIBE id cut off", version, "client", frame(0xA2, "00"))
    # [MQTT-3.10.1-1]
    bad("UNSUBSCRIBE flags 0", version, "client", frame(0xA0, "0001", properties, field("a")))
    bad("UNSUBSCRIBE flags 3", version, "client", frame(0xA3, "0001", properties, field("a")))
    bad("UNSUBSCRIBE 1001 filters", version, "client", frame(0xA2, "0001", properties, field("a") * 1001), 0x97)

good("UNSUBACK", V4, "server", frame(0xB0, "0001"), Unsuback(1))
good("UNSUBACK", V5, "server", frame(0xB0, "0001 00 00 11"), Unsuback(1, [0, 0x11]))
for reason in bytes.fromhex("80 83 87 8F 91"):
    good(f"UNSUBACK 0x{reason:02X}", V5, "server", frame(0xB0, "0001 00", reason), Unsuback(1, [reason]))
good(
    "UNSUBACK properties",
    V5,
    "server",
    frame(0xB0, "0001", block("1F 0001 72", "26 0001 61 0001 62"), 0x00),
    Unsuback(1, [0], Properties(reason_string="r", user_properties=[("a", "b")])),
)
bad("UNSUBACK id 0", V4, "server", frame(0xB0, "0000"), 0x82)
bad("UNSUBACK id 0", V5, "server", frame(0xB0, "0000 00 00"), 0x82)
bad("UNSUBACK trailing byte", V4, "server", frame(0xB0, "0001 00"))
bad("UNSUBACK cut off", BOTH_VERSIONS, "server", frame(0xB0, "00"))
bad("UNSUBACK flags", BOTH_VERSIONS, "server", frame(0xB2, "0001"))
bad("UNSUBACK without reasons", V5, "server", frame(0xB0, "0001 00"), 0x82)
for reason in (0x01, 0x10, 0x97, 0xFF):
    # [MQTT-3.11.3-2]
    bad(f"UNSUBACK reason 0x{reason:02X}", V5, "server", frame(0xB0, "0001 00", reason), 0x82)
