"""Wire cases of PUBLISH and its acknowledgements."""

from wire.notation import BOTH_VERSIONS, V4, V5, Table, block, field, frame

from broker.wire.packets import Properties, Puback, Pubcomp, Publish, Pubrec, Pubrel

cases = Table()
good, bad = cases.good, cases.bad

# -- PUBLISH -----------------------------------------------------------------------------------------------------------

good("PUBLISH spelled out", V4, "both", bytes.fromhex("30 05 00 03 61 2F 62"), Publish(b"a/b"))
good("PUBLISH spelled out", V5, "both", bytes.fromhex("30 06 00 03 61 2F 62 00"), Publish(b"a/b"))
for version, properties in ((V4, ""), (V5, "00")):
    # [MQTT-2.2.1-2]
    # 3.1.1 [MQTT-2.3.1-5]
    good("PUBLISH payload", version, "both", frame(0x30, field("t"), properties, b"Ciao"), Publish(b"t", b"Ciao"))
    good("PUBLISH retain", version, "both", frame(0x31, field("t"), properties), Publish(b"t", retain=True))
    good(
        "PUBLISH QoS 1",
        version,
        "both",
        frame(0x32, field("t"), "000A", properties, b"x"),
        Publish(b"t", b"x", 1, packet_id=10),
    )
    good(
        "PUBLISH QoS 2",
        version,
        "both",
        frame(0x34, field("t"), "FFFF", properties, b"x"),
        Publish(b"t", b"x", 2, packet_id=65535),
    )
    good(
        "PUBLISH QoS 2, DUP, retain",
        version,
        "both",
        frame(0x3D, field("t"), "0001", properties),
        Publish(b"t", b"", 2, True, True, 1),
    )
    good(
        "PUBLISH QoS 1, DUP",
        version,
        "both",
        frame(0x3A, field("t"), "0100", properties),
        Publish(b"t", b"", 1, False, True, 256),
    )
    good(
        "PUBLISH remaining length of two bytes",
        version,
        "both",
        frame(0x30, field("t"), properties, b"x" * 200),
        Publish(b"t", b"x" * 200),
    )
    good(
        "PUBLISH remaining length of three bytes",
        version,
        "both",
        frame(0x30, field("t"), properties, b"x" * 20_000),
        Publish(b"t", b"x" * 20_000),
    )
    good(
        "PUBLISH topic of UTF-8",
        version,
        "both",
        frame(0x30, field("caffè/€/😀"), properties),
        Publish("caffè/€/😀".encode()),
    )
    # Control and non-characters are better not sent, and may be taken (§1.5.4).
    good(
        "PUBLISH topic of disallowed code points",
        version,
        "both",
        frame(0x30, field("\x01/\x7f/\x9f/\uffff"), properties),
        Publish("\x01/\x7f/\x9f/\uffff".encode()),
    )
    for topic in (b"/", b"//", b" ", b"$SYS/x", b"a b", b"\xef\xbb\xbf", b"a" * 1024, b"/" * 31):
        good(
            f"PUBLISH topic {topic[:8]!r} of {len(topic)}",
            version,
            "both",
            frame(0x30, field(topic), properties),
            Publish(topic),
        )

    # [MQTT-3.3.1-4]
    bad("PUBLISH QoS 3", version, "both", frame(0x36, field("t"), "0001", properties))
    # [MQTT-3.3.1-4]
    bad("PUBLISH QoS 3, DUP", version, "both", frame(0x3E, field("t"), "0001", properties))
    # [MQTT-3.3.1-2]
    bad("PUBLISH DUP at QoS 0", version, "both", frame(0x38, field("t"), properties))
    # 3.1.1 [MQTT-2.3.1-1]
    bad("PUBLISH packet id 0", version, "both", frame(0x32, field("t"), "0000", properties), 0x82)
    bad("PUBLISH QoS 2 packet id 0", version, "both", frame(0x34, field("t"), "0000", properties), 0x82)
    bad("PUBLISH packet id cut off", version, "both", frame(0x32, field("t"), "00"))
    bad("PUBLISH packet id missing", version, "both", frame(0x32, field("t")))
    # [MQTT-3.3.2-1]
    bad("PUBLISH topic cut off", version, "both", frame(0x30, "0005 61"))
    bad("PUBLISH topic length cut off", version, "both", frame(0x30, "00"))
    # [MQTT-3.3.2-1]
    bad("PUBLISH empty", version, "both", frame(0x30))
    for topic, reason in (
        (b"#", 0x90),
        (b"+", 0x90),
        (b"a/#", 0x90),
        (b"a/+/b", 0x90),
        (b"a+", 0x90),
        (b"a" * 1025, 0x90),
        (b"/" * 32, 0x90),
        (b"a\x00b", 0x81),
        (b"\xff", 0x81),
        (b"a/\xed\xbf\xbf", 0x81),
        (b"\xc1\x81", 0x81),
        (b"\xf4\x90\x80\x80", 0x81),
        (b"\xe2\x82", 0x81),
    ):
        # [MQTT-3.3.2-1, -2, MQTT-4.7.3-2]
        bad(
            f"PUBLISH topic {topic[:8]!r} of {len(topic)}",
            version,
            "both",
            frame(0x30, field(topic), properties),
            reason,
        )
bad("PUBLISH empty topic", V4, "both", frame(0x30, "0000"), 0x90)
bad("PUBLISH empty topic, no alias", V5, "both", frame(0x30, "0000 00"), 0x82)
# [MQTT-2.2.2-1]
bad("PUBLISH without property length", V5, "both", frame(0x30, field("t")))
bad("PUBLISH properties cut off", V5, "both", frame(0x30, field("t"), "05 01 01"))
good(
    "PUBLISH alias alone",
    V5,
    "both",
    frame(0x30, "0000", block("23 0001"), b"x"),
    Publish(b"", b"x", properties=Properties(topic_alias=1)),
)
good(
    "PUBLISH alias with its topic",
    V5,
    "both",
    frame(0x32, field("t"), "0001", block("23 FFFF"), b"x"),
    Publish(b"t", b"x", 1, packet_id=1, properties=Properties(topic_alias=65535)),
)
good(
    "PUBLISH everything",
    V5,
    "server",
    frame(
        0x35,
        field("t"),
        "0102",
        block(
            "01 01",
            "02 00000E10",
            "03 000A 746578742F706C61696E",
            "08 0003 722F74",
            "09 0002 00FF",
            "0B 01",
            "0B FFFFFF7F",
            "23 0002",
            "26 0001 61 0001 31",
            "26 0001 61 0000",
        ),
        b"x",
    ),
    Publish(
        b"t",
        b"x",
        2,
        True,
        False,
        0x0102,
        Properties(
            payload_format=1,
            message_expiry=3600,
            content_type="text/plain",
            response_topic="r/t",
            correlation_data=b"\x00\xff",
            subscription_ids=[1, 268435455],
            topic_alias=2,
            user_properties=[("a", "1"), ("a", "")],
        ),
    ),
)
good(
    "PUBLISH properties in another order",
    V5,
    "both",
    frame(0x30, field("t"), block("26 0001 61 0001 31", "02 00000001", "01 00")),
    Publish(b"t", properties=Properties(payload_format=0, message_expiry=1, user_properties=[("a", "1")])),
    shortest=False,
)
long_text = "x" * 200
good(
    "PUBLISH property length of two bytes",
    V5,
    "both",
    frame(0x30, field("t"), "CB01 03", field(long_text)),
    Publish(b"t", properties=Properties(content_type=long_text)),
)
# [MQTT-3.3.2-14]
bad("PUBLISH response topic with #", V5, "both", frame(0x30, field("t"), block("08 0003 612F23")), 0x82)
bad("PUBLISH response topic with +", V5, "both", frame(0x30, field("t"), block("08 0001 2B")), 0x82)
# [MQTT-3.3.2-13]
bad("PUBLISH response topic not UTF-8", V5, "both", frame(0x30, field("t"), block("08 0001 FF")))
# [MQTT-3.3.2-19]
bad("PUBLISH content type not UTF-8", V5, "both", frame(0x30, field("t"), block("03 0001 FF")))
bad("PUBLISH response topic empty", V5, "both", frame(0x30, field("t"), block("08 0000")), 0x82)
# [MQTT-1.5.5-1]
bad("PUBLISH property length not shortest", V5, "both", frame(0x30, field("t"), "8000"))
bad("PUBLISH property length over four bytes", V5, "both", frame(0x30, field("t"), "8080808001"))
bad("PUBLISH 65 user properties", V5, "both", frame(0x30, field("t"), "C502", "26 0000 0000" * 65), 0x97)
good(
    "PUBLISH 64 user properties",
    V5,
    "both",
    frame(0x30, field("t"), "C002", "26 0000 0000" * 64),
    Publish(b"t", properties=Properties(user_properties=[("", "")] * 64)),
)

# -- PUBACK, PUBREC, PUBREL, PUBCOMP -----------------------------------------------------------------------------------

PUBLISHED = bytes.fromhex("10 80 83 87 90 91 97 99")
RELEASED = bytes.fromhex("92")
for first, make, reasons in (
    (0x40, Puback, PUBLISHED),
    (0x50, Pubrec, PUBLISHED),
    (0x62, Pubrel, RELEASED),
    (0x70, Pubcomp, RELEASED),
):
    what = make.__name__.upper()
    good(f"{what} alone", BOTH_VERSIONS, "both", bytes((first, 2, 0x12, 0x34)), make(0x1234))
    good(f"{what} highest id", BOTH_VERSIONS, "both", frame(first, "FFFF"), make(65535))
    good(f"{what} success, said", V5, "both", frame(first, "0001 00"), make(1), shortest=False)
    good(f"{what} success, no properties", V5, "both", frame(first, "0001 00 00"), make(1), shortest=False)
    for reason in reasons:
        good(f"{what} 0x{reason:02X}", V5, "both", frame(first, "0001", reason), make(1, reason))
        good(
            f"{what} 0x{reason:02X}, 4 bytes",
            V5,
            "both",
            frame(first, "0001", reason, 0),
            make(1, reason),
            shortest=False,
        )
    good(
        f"{what} properties",
        V5,
        "both",
        frame(first, "0001 00", block("1F 0002 6F6B", "26 0001 61 0001 62")),
        make(1, 0, Properties(reason_string="ok", user_properties=[("a", "b")])),
    )
    bad(f"{what} id 0", BOTH_VERSIONS, "both", frame(first, "0000"), 0x82)
    bad(f"{what} cut off", BOTH_VERSIONS, "both", frame(first, "00"))
    bad(f"{what} empty", BOTH_VERSIONS, "both", frame(first))
    bad(f"{what} trailing byte", V4, "both", frame(first, "0001 00"))
    bad(f"{what} trailing byte", V5, "both", frame(first, "0001 00 00 00"))
    bad(f"{what} properties cut off", V5, "both", frame(first, "0001 00 01"))
    for flag in (0x01, 0x02, 0x04, 0x08):
        # [MQTT-3.6.1-1], 3.1.1 [MQTT-2.2.2-2]
        bad(f"{what} flag {flag}", BOTH_VERSIONS, "both", frame(first ^ flag, "0001"))
    for reason in {0x01, 0x11, 0x10, 0x81, 0x82, 0x92, 0x80, 0xFF} - set(reasons):
        # [MQTT-3.4.2-1, MQTT-3.5.2-1, MQTT-3.6.2-1, MQTT-3.7.2-1]
        bad(f"{what} reason 0x{reason:02X}", V5, "both", frame(first, "0001", reason), 0x82)
