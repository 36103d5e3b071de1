"""Clients on the loopback whose sessions outlive their connections: who leaves, comes back, and takes what waits."""

from support.loopback import Client, Lab

from broker.wire.packets import Packet, Puback, Pubcomp, Publish, Pubrec, Pubrel


def lasting(lab: Lab, client_id: str = "c", version: int = 5, **properties: int) -> Client:
    """A client whose session outlives its connection."""
    if version == 4:
        return lab.connect(client_id, 4, clean=False)
    return lab.connect(client_id, clean=False, **{"session_expiry": 3600, **properties})


def away(lab: Lab, client_id: str, *filters: str, qos: int = 1, **properties: int) -> None:
    """A session with subscriptions that stays, whose client has gone."""
    client = lasting(lab, client_id, **properties)
    for name in filters:
        client.subscribe(name, qos)
    client.drop()


def answer(client: Client, packets: list[Packet]) -> list[Publish]:
    """The messages among packets, and acknowledge them, and go on with all handshakes."""
    found = []
    while packets:
        found += [p for p in packets if isinstance(p, Publish)]
        answers: list[Packet] = []
        for packet in packets:
            if isinstance(packet, Publish) and packet.qos:
                answers.append((Puback if packet.qos == 1 else Pubrec)(packet.packet_id))
            elif isinstance(packet, Pubrel):
                answers.append(Pubcomp(packet.packet_id))
        client.send(*answers)
        packets = client.packets()
    return found


def receive_all(lab: Lab, client_id: str = "c", version: int = 5, **properties: int) -> list[bytes]:
    """Whatever waits for a client, which acknowledges as it comes."""
    client = lasting(lab, client_id, version, **properties)
    return [message.payload for message in answer(client, client.early)]
