"""MQTT: mosquitto from Debian, and gmqtt."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gmqtt import Client as Connection
from gmqtt.mqtt.constants import MQTTv311

from ..check import Take
from ..debian import program
from ..peer import Channel, Client, Peer
from ..servers import free_port, port_of
from ..subject import Server


class MqttClient(Client):
    """One connection.

    Args:
        connection: The library's.
        sends: The topic that is sent to.
    """

    def __init__(self, connection: Connection, sends: str) -> None:
        self._publish = connection.publish
        self._sends = sends

    async def send(self, payloads: Iterable[bytes]) -> None:
        """Publish each, and have them written."""
        publish, topic = self._publish, self._sends
        for payload in payloads:
            publish(topic, payload)
        await asyncio.sleep(0)


class Mqtt(Peer):
    """MQTT 3.1.1 with QoS 0, which is at most once."""

    name = "MQTT (mosquitto)"
    lacks = "no table, no replay but of the last message, no completion, no filter by range; drops what is slow"
    libraries = ("gmqtt",)
    program = ("mosquitto", "mosquitto")

    def server(self, place: Path) -> Server:
        """Start ``mosquitto`` on loopback; the client has no Unix sockets."""
        found = program(*self.program)
        port, config = free_port(place), place / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            f"max_queued_messages 0\nmax_inflight_messages 0\nlog_dest file {place / 'mosquitto.log'}\n"
        )
        return Server([found.path, "-c", str(config)], port, found.environment)

    @asynccontextmanager
    async def client(self, place: Path, receives: Channel, sends: Channel, take: Take) -> AsyncGenerator[Client]:
        """Connect over TCP."""
        connection = Connection(f"bench-{os.getpid()}")
        subscribed = asyncio.Event()

        def receive(_: Connection, topic: str, payload: bytes, qos: int, properties: Any) -> int:  # noqa: ARG001
            answer = take(payload)
            if answer is not None:
                connection.publish(sends, answer)
            return 0

        connection.on_message = receive
        connection.on_subscribe = lambda *_: subscribed.set()
        await connection.connect("127.0.0.1", port_of(place), version=MQTTv311)
        connection.subscribe(receives)
        await subscribed.wait()
        yield MqttClient(connection, sends)
        await connection.disconnect()
