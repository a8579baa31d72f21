"""Which version and which features two ends use: what both can, or nothing."""

from typing import Final

from msgspec import Struct

from ..errors import BadMessage, FeatureRefused, VersionRefused
from .messages.greeting import Feature, Hello, Welcome

LEAST_VERSION: Final = 1
"""Oldest version of the protocol that is spoken here."""

MOST_VERSION: Final = 1
"""Newest version.  A new message or a new field with a default needs no new version,
only what an old reader would misunderstand does."""

FEATURES: Final = Feature.DESCRIPTORS | Feature.RESUME
"""All that are known here."""


class Agreement(Struct, frozen=True):
    """What both ends use.

    Attributes:
        version: Version of the protocol.
        features: The features.
    """

    version: int
    features: Feature


def negotiate(hello: Hello, offered: Feature = FEATURES) -> Agreement:
    """Return what the daemon and a client use: the newest version of both, and each feature that the client asks for.

    Args:
        hello: What the client said.
        offered: What the daemon can do on this connection.

    Raises:
        VersionRefused: They have no version in common.
        FeatureRefused: The client requires what is not offered.
    """
    version = min(hello.most, MOST_VERSION)
    if version < max(hello.least, LEAST_VERSION):
        raise VersionRefused(hello.least, hello.most, LEAST_VERSION, MOST_VERSION)
    if hello.required & ~int(offered):
        raise FeatureRefused(hello.required, int(offered))
    return Agreement(version, Feature((hello.required | hello.optional) & int(offered)))


def accept(hello: Hello, welcome: Welcome) -> Agreement:
    """Return what both use, as the client reads it.

    Args:
        hello: What the client said.
        welcome: What the daemon answered.

    Raises:
        BadMessage: The daemon chose what was not asked for, or left out what is required.
    """
    if not hello.least <= welcome.version <= hello.most:
        wanted = f"versions {hello.least} to {hello.most} were asked for"
        raise BadMessage("Welcome", "version", str(welcome.version), wanted)
    asked = hello.required | hello.optional
    if welcome.features & ~asked or hello.required & ~welcome.features:
        wanted = f"{hello.required:#x} are required, {hello.optional:#x} are optional"
        raise BadMessage("Welcome", "features", f"{welcome.features:#x}", wanted)
    return Agreement(welcome.version, Feature(welcome.features))
