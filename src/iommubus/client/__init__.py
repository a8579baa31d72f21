"""The bus of a daemon, in the process of a client."""

from .remote import RemoteBus, connect

__all__ = ["RemoteBus", "connect"]
