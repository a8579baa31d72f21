"""All subjects; each is loaded by itself, so that no process has the libraries of another one."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from .subject import Missing, Subject

IOMMUBUS: Final = "iommubus"
HUB: Final = "hub"

SUBJECTS: Final[Mapping[str, tuple[str, str]]] = {
    IOMMUBUS: (".bus", "Iommubus"),
    HUB: (".peers.bare_hub", "BareHub"),
    "nats": (".peers.nats", "Nats"),
    "redis": (".peers.redis", "Redis"),
    "zeromq": (".peers.zeromq", "ZeroMq"),
    "zeromq-blocking": (".peers.zeromq", "BlockingZeroMq"),
    "dbus": (".peers.dbus", "Dbus"),
    "mqtt": (".peers.mqtt", "Mqtt"),
    "zenoh": (".peers.zenoh", "Zenoh"),
}
"""Module and class of each, by what it is called on command lines."""


def load(key: str) -> Subject:
    """Return a subject.

    Raises:
        Missing: A library that it needs is not installed.
    """
    module, name = SUBJECTS[key]
    try:
        subject: Subject = getattr(import_module(module, __package__), name)()
    except ModuleNotFoundError as missing:
        raise Missing(f"{missing.name} is not installed") from None
    return subject
