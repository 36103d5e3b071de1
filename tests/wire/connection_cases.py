"""Wire cases of what opens, keeps and ends a connection."""

from wire.notation import BOTH_VERSIONS, MQTT4, MQTT5, V4, V5, Table, block, field, frame

from broker.wire.packets import Auth, Connack, Connect, Disconnect, Pingreq, Pingresp, Properties, Will

cases = Table()
good, bad = cases.good, cases.bad

# -- CONNECT -----------------------------------------------------------------------------------------------------------


good("CONNECT", V4, "client", frame(0x10, MQTT4, "02 003C", field("kiosk-7")), Connect("kiosk-7", 4, True, 60))
good(
    "CONNECT spelled out",
    V4,
    "client",
    bytes.fromhex("10 0D 00 04 4D 51 54 54 04 00 00 0A 00 01 61"),
    Connect("a", 4, False, 10),
)
good("CONNECT empty client id, clean", V4, "client", frame(0x10, MQTT4, "02 0000", "0000"), Connect("", 4, True))
good("CONNECT empty client id, not clean", V4, "client", frame(0x10, MQTT4, "00 0000 0000"), Connect("", 4, False))
good(
    "CONNECT user name and password",
    V4,
    "client",
    frame(0x10, MQTT4, "C2 000A", field("a"), field("ada"), field(b"\x00\xff")),
    Connect("a", 4, True, 10, "ada", b"\x00\xff"),
)
good(
    "CONNECT user name only",
    V4,
    "client",
    frame(0x10, MQTT4, "82 000A", field("a"), field("")),
    Connect("a", 4, True, 10, ""),
)
# [MQTT-3.1.2-9]
good(
    "CONNECT everything",
    V4,
    "client",
    frame(0x10, MQTT4, "F6 FFFF", field("a"), field("w/t"), field(b"gone"), field("ada"), field(b"")),
    Connect("a", 4, True, 65535, "ada", b"", Will(b"w/t", b"gone", 2, True)),
)
for qos in (0, 1, 2):
    good(
        f"CONNECT will QoS {qos}",
        V4,
        "client",
        frame(0x10, MQTT4, 0x06 | qos << 3, "0000", field("a"), field("w"), field(b"")),
        Connect("a", 4, True, 0, will=Will(b"w", b"", qos)),
    )
# Without properties their length is there all the same, and 0 [MQTT-2.2.2-1].
good("CONNECT", V5, "client", frame(0x10, MQTT5, "02 003C 00", field("kiosk-7")), Connect("kiosk-7", 5, True, 60))
good("CONNECT clean start off", V5, "client", frame(0x10, MQTT5, "00 0000 00 0000"), Connect("", 5, False))
# 3.1.1 [MQTT-3.1.2-22]
good(
    "CONNECT password without user name",
    V5,
    "client",
    frame(0x10, MQTT5, "42 0000 00", field("a"), field(b"token")),
    Connect("a", 5, True, 0, None, b"token"),
)
good(  # [MQTT-3.1.3-1]
    "CONNECT everything",
    V5,
    "client",
    frame(
        0x10,
        MQTT5,
        "EE 001E",
        block("11 00278D00", "21 0014", "26 0001 61 0001 62"),
        field("dev"),
        block("01 01", "02 0000003C", "03 0001 63", "18 00000005"),
        field("w/t"),
        field(b"bye"),
        field("ada"),
        field(b"pw"),
    ),
    Connect(
        "dev",
        5,
        True,
        30,
        "ada",
        b"pw",
        Will(b"w/t", b"bye", 1, True, Properties(payload_format=1, message_expiry=60, content_type="c", will_delay=5)),
        Properties(session_expiry=2592000, receive_maximum=20, user_properties=[("a", "b")]),
    ),
)
good(
    "CONNECT authentication method and data",
    V5,
    "client",
    frame(0x10, MQTT5, "02 0000", block("15 0001 6D", "16 0002 0001"), "0000"),
    Connect("", 5, True, 0, properties=Properties(auth_method="m", auth_data=b"\x00\x01")),
)
# 3.1.1 [MQTT-1.5.3-3]
good(  # [MQTT-1.5.4-3]
    "CONNECT client id of 3-byte UTF-8, with U+FEFF kept",
    BOTH_VERSIONS,
    "client",
    frame(0x10, MQTT4, "02 0000", field(b"\xef\xbb\xbf\xe2\x82\xac")),
    Connect("\ufeff\u20ac", 4, True),
)

for version, head, properties in ((V4, MQTT4, ""), (V5, MQTT5, "00")):
    bad("CONNECT reserved flag", version, "client", frame(0x10, head, "03 0000", properties, "0000"))  # [MQTT-3.1.2-3]
    # [MQTT-3.1.2-11]
    # 3.1.1 [MQTT-3.1.2-11, -13]
    bad("CONNECT will QoS 1 without a will", version, "client", frame(0x10, head, "0A 0000", properties, "0000"))
    # [MQTT-3.1.2-11]
    # 3.1.1 [MQTT-3.1.2-13]
    bad("CONNECT will QoS 2 without a will", version, "client", frame(0x10, head, "12 0000", properties, "0000"))
    # [MQTT-3.1.2-13]
    # 3.1.1 [MQTT-3.1.2-11, -15]
    bad("CONNECT will retain without a will", version, "client", frame(0x10, head, "22 0000", properties, "0000"))
    will = (properties, field("w"), field(b""))
    # [MQTT-3.1.2-12]
    # 3.1.1 [MQTT-3.1.2-14]
    bad("CONNECT will QoS 3", version, "client", frame(0x10, head, "1E 0000", properties, "0000", *will))
    bad("CONNECT will QoS 3 without a will", version, "client", frame(0x10, head, "1A 0000", properties, "0000"))
    # [MQTT-3.1.2-9]
    bad("CONNECT will missing", version, "client", frame(0x10, head, "06 0000", properties, "0000"))
    # [MQTT-3.1.2-9]
    bad("CONNECT will payload missing", version, "client", frame(0x10, head, "06 0000", properties, "0000", *will[:2]))
    # 3.1.1 [MQTT-3.1.2-11]
    bad("CONNECT will without its flag", version, "client", frame(0x10, head, "02 0000", properties, "0000", *will))
    # [MQTT-3.1.2-17]
    # 3.1.1 [MQTT-3.1.2-19]
    bad("CONNECT user name missing", version, "client", frame(0x10, head, "82 0000", properties, "0000"))
    # [MQTT-3.1.2-16]
    # 3.1.1 [MQTT-3.1.2-18]
    bad(
        "CONNECT user name without its flag",
        version,
        "client",
        frame(0x10, head, "02 0000", properties, "0000 0001 61"),
    )
    # [MQTT-3.1.2-19]
    # 3.1.1 [MQTT-3.1.2-21]
    bad("CONNECT password missing", version, "client", frame(0x10, head, "C2 0000", properties, "0000 0000"))
    # [MQTT-3.1.2-18]
    # 3.1.1 [MQTT-3.1.2-20]
    bad(
        "CONNECT password without its flag",
        version,
        "client",
        frame(0x10, head, "82 0000", properties, "0000", field("ada"), field(b"pw")),
    )
    bad("CONNECT client id missing", version, "client", frame(0x10, head, "02 0000", properties))  # [MQTT-3.1.3-3]
    bad("CONNECT client id cut off", version, "client", frame(0x10, head, "02 0000", properties, "0002 61"))
    bad("CONNECT trailing byte", version, "client", frame(0x10, head, "02 0000", properties, "0000 00"))
    bad("CONNECT keep alive cut off", version, "client", frame(0x10, head, "02 00"))
    bad("CONNECT flags missing", version, "client", frame(0x10, head))
    bad("CONNECT empty", version, "client", frame(0x10))
    # [MQTT-2.1.3-1]
    # 3.1.1 [MQTT-2.2.2-2]
    bad("CONNECT fixed header flag", version, "client", frame(0x11, head, "02 0000", properties, "0000"))
    # [MQTT-1.5.4-1, MQTT-3.1.3-4]
    bad("CONNECT client id not UTF-8", version, "client", frame(0x10, head, "02 0000", properties, field(b"\xff")))
    # [MQTT-1.5.4-2]
    # 3.1.1 [MQTT-1.5.3-2]
    bad("CONNECT client id U+0000", version, "client", frame(0x10, head, "02 0000", properties, field(b"a\x00")))
    # 3.1.1 [MQTT-1.5.3-1]
    bad(  # [MQTT-1.5.4-1]
        "CONNECT client id surrogate",
        version,
        "client",
        frame(0x10, head, "02 0000", properties, field(b"\xed\xa0\x80")),
    )
    # 3.1.1 [MQTT-1.5.3-1]
    bad("CONNECT client id overlong", version, "client", frame(0x10, head, "02 0000", properties, field(b"\xc0\xaf")))
    # [MQTT-3.1.3-12]
    # 3.1.1 [MQTT-3.1.3-11]
    bad("CONNECT user name not UTF-8", version, "client", frame(0x10, head, "82 0000", properties, "0000 0001 FE"))
    for topic, what, reason in (
        (b"", "empty", 0x90),
        (b"a/#", "wildcard", 0x90),
        (b"+", "wildcard +", 0x90),
        (b"a\x00", "U+0000", 0x81),
        (b"\xc3", "not UTF-8", 0x81),
    ):
        will = (properties, field(topic), field(b""))
        # 3.1.1 [MQTT-3.1.3-10]
        bad(  # [MQTT-3.1.3-11]
            f"CONNECT will topic {what}",
            version,
            "client",
            frame(0x10, head, "06 0000", properties, "0000", *will),
            reason,
        )

bad("CONNECT password without user name", V4, "client", frame(0x10, MQTT4, "42 0000 0000", field(b"pw")))
for level in (0, 1, 2, 3, 6, 0x83, 0x84, 0xFF):
    bad(  # [MQTT-3.1.2-2]
        f"CONNECT level {level}",
        BOTH_VERSIONS,
        "client",
        frame(0x10, "00 04 4D 51 54 54", level, "02 0000 0000"),
        0x84,
    )
bad("CONNECT of 3.1", BOTH_VERSIONS, "client", frame(0x10, field("MQIsdp"), "03 02 0000", field("a")), 0x84)
bad("CONNECT MQIsdp at level 4", BOTH_VERSIONS, "client", frame(0x10, field("MQIsdp"), "04 02 0000 0000"), 0x84)
# [MQTT-3.1.2-1]
bad("CONNECT protocol mqtt", BOTH_VERSIONS, "client", frame(0x10, field("mqtt"), "04 02 0000 0000"), 0x84)
bad("CONNECT protocol empty", BOTH_VERSIONS, "client", frame(0x10, field(""), "04 02 0000 0000"), 0x84)
bad("CONNECT protocol name cut off", BOTH_VERSIONS, "client", frame(0x10, "0004 4D51"))
bad("CONNECT protocol name not UTF-8", BOTH_VERSIONS, "client", frame(0x10, "0001 80 04 02 0000 0000"))
bad("CONNECT properties missing", V5, "client", frame(0x10, MQTT5, "02 0000"))
bad("CONNECT properties cut off", V5, "client", frame(0x10, MQTT5, "02 0000 05 11 0000"))
# [MQTT-1.5.5-1]
bad("CONNECT length not shortest", BOTH_VERSIONS, "client", bytes.fromhex("10 8D 00" + MQTT4 + "02 000A 0001 61"))
# [MQTT-1.5.5-1]
bad("CONNECT property length not shortest", V5, "client", frame(0x10, MQTT5, "02 0000 8000 0000"))
bad("CONNECT property length over four bytes", V5, "client", frame(0x10, MQTT5, "02 0000 8080808001 0000"))
# [MQTT-3.1.2-9]
bad("CONNECT will properties missing", V5, "client", frame(0x10, MQTT5, "06 0000 00 0000"))
bad("CONNECT data without method", V5, "client", frame(0x10, MQTT5, "02 0000", block("16 0000"), "0000"), 0x82)

# -- CONNACK -----------------------------------------------------------------------------------------------------------

good("CONNACK", V4, "server", frame(0x20, "00 00"), Connack())
good("CONNACK session present", V4, "server", frame(0x20, "01 00"), Connack(True))
for code, reason in ((1, 0x84), (2, 0x85), (3, 0x88), (4, 0x86), (5, 0x87)):
    good(f"CONNACK return code {code}", V4, "server", frame(0x20, 0, code), Connack(False, reason))
good("CONNACK", V5, "server", frame(0x20, "00 00 00"), Connack())
# [MQTT-3.2.2-1]
good("CONNACK session present", V5, "server", frame(0x20, "01 00 00"), Connack(True))
for reason in bytes.fromhex("80 81 82 83 84 85 86 87 88 89 8A 8C 90 95 97 99 9A 9B 9C 9D 9F"):
    good(f"CONNACK 0x{reason:02X}", V5, "server", frame(0x20, 0, reason, 0), Connack(False, reason))
good(
    "CONNACK everything",
    V5,
    "server",
    frame(
        0x20,
        "01 00",
        block(
            "11 0000000A",
            "12 0001 61",
            "13 0E10",
            "15 0001 6D",
            "16 0001 64",
            "1A 0001 72",
            "1C 0001 73",
            "1F 0001 74",
            "21 0400",
            "22 0020",
            "24 01",
            "25 00",
            "26 0001 6B 0001 76",
            "26 0001 6B 0001 76",
            "27 00100000",
            "28 01",
            "29 01",
            "2A 00",
        ),
    ),
    Connack(
        True,
        0,
        Properties(
            session_expiry=10,
            assigned_client_id="a",
            server_keep_alive=3600,
            auth_method="m",
            auth_data=b"d",
            response_info="r",
            server_reference="s",
            reason_string="t",
            receive_maximum=1024,
            topic_alias_maximum=32,
            maximum_qos=1,
            retain_available=0,
            user_properties=[("k", "v"), ("k", "v")],
            maximum_packet_size=1 << 20,
            wildcard_available=1,
            subscription_ids_available=1,
            shared_available=0,
        ),
    ),
)
for code in (6, 0x80, 0x84, 0xFF):
    bad(f"CONNACK return code {code}", V4, "server", frame(0x20, 0, code))
for code in (0x01, 0x10, 0x7F, 0x8B, 0x8D, 0x8E, 0x93, 0x98, 0x9E, 0xA0, 0xFF):
    bad(f"CONNACK reason 0x{code:02X}", V5, "server", frame(0x20, 0, code, 0), 0x82)
for version, properties in ((V4, ""), (V5, "00")):
    for flags in (0x02, 0x80, 0xFF):
        # [MQTT-3.2.2-1]
        bad(f"CONNACK flags 0x{flags:02X}", version, "server", frame(0x20, flags, 0, properties))
    bad("CONNACK trailing byte", version, "server", frame(0x20, "00 00", properties, "00"))
    bad("CONNACK fixed header flag", version, "server", frame(0x28, "00 00", properties))
    bad("CONNACK cut off", version, "server", frame(0x20, "00"))
    bad("CONNACK empty", version, "server", frame(0x20))
bad("CONNACK session present in a refusal", V4, "server", frame(0x20, "01 05"), 0x82)
bad("CONNACK session present in a refusal", V5, "server", frame(0x20, "01 87 00"), 0x82)
bad("CONNACK without property length", V5, "server", frame(0x20, "00 00"))

# -- PINGREQ, PINGRESP, DISCONNECT, AUTH -------------------------------------------------------------------------------

good("PINGREQ", BOTH_VERSIONS, "client", b"\xc0\x00", Pingreq())
good("PINGRESP", BOTH_VERSIONS, "server", b"\xd0\x00", Pingresp())
bad("PINGREQ with a body", BOTH_VERSIONS, "client", frame(0xC0, "00"))
bad("PINGRESP with a body", BOTH_VERSIONS, "server", frame(0xD0, "00"))
# 3.1.1 [MQTT-2.2.2-2]
bad("PINGREQ flags", BOTH_VERSIONS, "client", frame(0xC1))
bad("PINGRESP flags", BOTH_VERSIONS, "server", frame(0xD8))

good("DISCONNECT", V4, "client", b"\xe0\x00", Disconnect())
good("DISCONNECT", V5, "both", b"\xe0\x00", Disconnect())
good("DISCONNECT success, said", V5, "both", frame(0xE0, "00"), Disconnect(), shortest=False)
good("DISCONNECT success, no properties", V5, "both", frame(0xE0, "00 00"), Disconnect(), shortest=False)
for reason in bytes.fromhex("04 80 81 82 83 87 89 8B 8C 8D 8E 8F 90 93 94 95 96 97 98 99 9A 9B 9C 9D 9E 9F A0 A1 A2"):
    good(f"DISCONNECT 0x{reason:02X}", V5, "both", frame(0xE0, reason), Disconnect(reason))
good(
    "DISCONNECT of a client",
    V5,
    "client",
    frame(0xE0, "04", block("11 0000003C", "1F 0001 72", "26 0001 61 0001 62")),
    Disconnect(4, Properties(session_expiry=60, reason_string="r", user_properties=[("a", "b")])),
)
good(
    "DISCONNECT of a server",
    V5,
    "server",
    frame(0xE0, "9C", block("1C 0001 73")),
    Disconnect(0x9C, Properties(server_reference="s")),
)
good(
    "DISCONNECT success with properties",
    V5,
    "client",
    frame(0xE0, "00", block("11 00000000")),
    Disconnect(0, Properties(session_expiry=0)),
)
bad("DISCONNECT with a body", V4, "client", frame(0xE0, "00"))
# [MQTT-3.14.1-1]
bad("DISCONNECT flags", BOTH_VERSIONS, "both", frame(0xE1))
bad("DISCONNECT trailing byte", V5, "both", frame(0xE0, "00 00 00"))
bad("DISCONNECT properties cut off", V5, "both", frame(0xE0, "00 01"))
for reason in (0x01, 0x10, 0x18, 0x84, 0x85, 0x86, 0x88, 0x8A, 0x91, 0x92, 0xA3, 0xFF):
    # [MQTT-3.14.2-1]
    bad(f"DISCONNECT reason 0x{reason:02X}", V5, "both", frame(0xE0, reason), 0x82)

good("AUTH success, empty", V5, "both", b"\xf0\x00", Auth())
for reason in (0x00, 0x18, 0x19):
    good(
        f"AUTH 0x{reason:02X}",
        V5,
        "both",
        frame(0xF0, reason, block("15 0001 6D", "16 0001 64")),
        Auth(reason, Properties(auth_method="m", auth_data=b"d")),
    )
bad("AUTH without a method", V5, "both", frame(0xF0, "18 00"), 0x82)
bad("AUTH data without a method", V5, "both", frame(0xF0, "18", block("16 0001 64")), 0x82)
bad("AUTH without property length", V5, "both", frame(0xF0, "18"))
# [MQTT-3.15.2-1]
bad("AUTH reason", V5, "both", frame(0xF0, "01", block("15 0001 6D")), 0x82)
# [MQTT-3.15.1-1]
bad("AUTH flags", V5, "both", frame(0xF2))
bad("AUTH trailing byte", V5, "both", frame(0xF0, "18", block("15 0001 6D"), "00"))
bad("AUTH in 3.1.1", V4, "both", frame(0xF0))
bad("AUTH in 3.1.1, with a body", V4, "both", frame(0xF0, "18", block("15 0001 6D")))
for first in (0x00, 0x02, 0x0F):
    bad(f"packet type 0, first byte 0x{first:02X}", BOTH_VERSIONS, "both", frame(first))
