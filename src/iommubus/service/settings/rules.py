"""Who may do what: a peer, as far as it is proven, against the rules of the file.

The daemon's own user may do everything, for it could stop the daemon and take
its place.  Everybody else may do what a rule says, and without a rule nothing.
Rules only ever allow.  No rule is about the order of others, and adding one
takes nothing from anybody.
"""

from collections.abc import Iterable
from enum import Enum
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ...errors import RuleMissing
from ...transport.credentials import Peer

Id = Annotated[int, Meta(ge=0, le=2**32 - 2)]
"""A number of a user or a group; the last one of 32 bits means "none" to the kernel."""

Globs = tuple[Annotated[str, Meta(min_length=1)], ...]
"""Names of spaces and endpoints, or patterns of them with ``*``, ``?`` and ``[]``."""


class Action(Enum):
    """What a rule can allow, by its key in the file."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    OBSERVE = "observe"
    ADMIN = "admin"


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """What some peers may do.

    It is about the peers of which everything holds that it names; one that names
    nothing is about nobody, unless it says ``anybody``.

    Attributes:
        uid: Number of their user.
        gid: Number of one of their groups.
        certificate: A pattern that one of the names in their certificate matches.
        anybody: Whether it is about every peer, also one that proves nothing.
        publish: Spaces that they may create, and endpoints that they may make.
        subscribe: Endpoints, and the spaces these are attached to, that they may subscribe to.
        observe: Spaces that they may watch.
        admin: Spaces whose state they may see, and whose subscribers they may fence.
        fence: What may be done to their process when a fence needs proof that
            it has stopped: nothing, so that `sync` fails, or kill it.
    """

    uid: Id | None = None
    gid: Id | None = None
    certificate: Annotated[str, Meta(min_length=1)] | None = None
    anybody: bool = False
    publish: Globs = ()
    subscribe: Globs = ()
    observe: Globs = ()
    admin: Globs = ()
    fence: Literal["fail", "kill"] = "fail"

    @property
    def wrong(self) -> str:
        """What is wrong with it; "" if nothing is."""
        named = any(value is not None for value in (self.uid, self.gid, self.certificate))
        if self.anybody and named:
            return "either anybody = true, or one of uid, gid, certificate"
        return "" if self.anybody or named else "at least one of uid, gid, certificate, or anybody = true"

    def is_about(self, peer: Peer) -> bool:
        """Say whether everything that it names holds for this peer."""
        if self.wrong:
            return False
        return (
            (self.uid is None or self.uid == peer.uid)
            and (self.gid is None or self.gid in peer.gids)
            and (self.certificate is None or matches(peer.names, self.certificate))
        )

    def allows(self, action: Action, name: str) -> bool:
        """Say whether it lets those whom it is about do this to a space or endpoint."""
        globs: Globs = getattr(self, action.value)
        return any(fnmatchcase(name, glob) for glob in globs)


class Rules:
    """The rules of a daemon.

    Args:
        rules: Those of its file.
        own_uid: The user that it runs as.
    """

    __slots__ = ("_own_uid", "_rules")

    def __init__(self, rules: Iterable[Rule], own_uid: int) -> None:
        self._rules = tuple(rules)
        self._own_uid = own_uid

    def allows(self, peer: Peer, action: Action, name: str) -> bool:
        """Say whether a peer may do this to a space or endpoint of this name."""
        return peer.uid == self._own_uid or any(rule.allows(action, name) for rule in self._about(peer))

    def allows_any(self, peer: Peer, action: Action) -> bool:
        """Say whether a rule lets a peer do this to anything at all."""
        return peer.uid == self._own_uid or any(getattr(rule, action.value) for rule in self._about(peer))

    def check(self, peer: Peer, action: Action, name: str) -> None:
        """Check that it may.

        Raises:
            RuleMissing: No rule allows it.
        """
        if not self.allows(peer, action, name):
            raise RuleMissing(str(peer), action.value, name, missing(peer, action, name))

    def check_subscribe(self, peer: Peer, endpoint: str, space: str | None) -> None:
        """Check that a peer may subscribe to an endpoint where it is attached, or would be.

        The name of an endpoint says nothing about whose mappings are seen there,
        so the space has to be allowed as well.

        Args:
            peer: Who.
            endpoint: Name of the endpoint.
            space: Name of the space that it is attached to, `None` if to none.

        Raises:
            RuleMissing: The rule for one of them is missing.
        """
        self.check(peer, Action.SUBSCRIBE, endpoint)
        if space is not None:
            self.check(peer, Action.SUBSCRIBE, space)

    def may_kill(self, peer: Peer) -> bool:
        """Say whether a rule lets the daemon kill this peer's process."""
        return any(rule.fence == "kill" for rule in self._about(peer))

    def _about(self, peer: Peer) -> Iterable[Rule]:
        return (rule for rule in self._rules if rule.is_about(peer))


def matches(names: Iterable[str], glob: str) -> bool:
    """Say whether one of the names matches a pattern."""
    return any(fnmatchcase(name, glob) for name in names)


def missing(peer: Peer, action: Action, name: str) -> str:
    """Return the narrowest rule that would allow this, as it would stand in the file."""
    if peer.names:
        about = f"certificate = {quoted(peer.names[0])}"
    elif peer.uid is not None:
        about = f"uid = {peer.uid}"
    else:
        about = "anybody = true"
    return f"[[rules]] {about}, {action.value} = [{quoted(name)}]"


def quoted(text: str) -> str:
    """Return a text as TOML writes it on one line, whatever a peer has put into it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in escaped) + '"'
