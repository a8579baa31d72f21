"""What all connections of a daemon share."""

import asyncio
from collections.abc import Iterable
from random import Random
from typing import Final

from ..bus.bus import Bus
from ..bus.logs import Lines
from ..errors import LimitReached, RuleMissing, Stopping
from ..transport.clock import Clock
from ..transport.credentials import Peer
from ..transport.deadlines import Deadlines
from ..transport.descriptors import Tokens
from ..transport.tasks import Tasks
from .clients import Client, Connection, same_user
from .packing import Packer
from .proof.record import Record
from .proof.stopping import Proof
from .seen.counts import Counts
from .settings.config import Config
from .settings.rules import Action, Rules
from .spaces.held import Held, Spaces
from .spaces.store import Store

INCARNATION_BITS: Final = 31
"""Random bits in front of every number: two daemons in a row have the same ones once in 2^31 restarts."""

COUNTER_BITS: Final = 32
"""Bits of the counter behind them: as many numbers as one daemon can give."""


class Shared:
    """What all connections of a daemon share.

    Args:
        config: Its settings.
        clock: Tells seconds for leases.
        random: Where numbers come from that nobody else may have.
        own_uid: The user that it runs as.
        record: What outlives the daemon; `None` where none follows.

    Attributes:
        config: The same.
        clock: The same.
        random: The same.
        bus: The bus that it serves.
        rules: Who may do what; replaced as a whole.
        counts: What it counts.
        lines: Rate-limited log lines.
        connections: All connections, also those that were not let in.
        clients: Those that were let in, by number.
        incarnation: What tells this daemon from those before.
        packer: Encodes hand-overs.
        spaces: The spaces and endpoints that clients made.
        store: The memories that they added.
        proof: What proves subscribers stopped.
        tasks: Where requests wait.
        deadlines: Those of requests that wait without a task.
        tokens: What opens second connections, by the number of the client.
        on_empty: Set when the last connection is gone.
        over: Whether it has ended, and takes no connection any more.
        draining: Why nothing new is begun; empty as long as it is.
    """

    tasks: Tasks

    def __init__(
        self, config: Config, *, clock: Clock, random: Random, own_uid: int, record: Record | None = None
    ) -> None:
        self.config = config
        self.clock = clock
        self.random = random
        self.bus = Bus()
        self.rules = Rules(config.rules, own_uid)
        self.counts = Counts()
        self.lines = Lines(clock)
        self.connections: dict[Connection, None] = {}
        self.clients: dict[int, Client] = {}
        self.incarnation = random.getrandbits(INCARNATION_BITS)
        self.tokens: Tokens[int] = Tokens()
        self.on_empty = asyncio.Event()
        self.over = False
        self.draining = ""
        self.packer = Packer()
        self.deadlines = Deadlines()
        self.proof = Proof(clock, self.lines, record=record, may_kill=self._may_kill)
        self._own_uid = own_uid
        self._last_id = self.incarnation << COUNTER_BITS
        self.spaces = Spaces(self.bus, config, self.new_id)
        self.store = Store(self.bus, self.spaces, config.limits.memories)
        self.spaces.check_memory = self.store.check

    def connected(self, connection: Connection) -> None:
        """Count a connection."""
        self.connections[connection] = None
        self.counts.connections = len(self.connections)

    def check_room(self, peer: Peer) -> None:
        """Check that the last connection may be let in.

        Args:
            peer: Who is at its other end.

        Raises:
            Stopping: The daemon has ended.
            LimitReached: There are too many, or too many of one user.
        """
        if self.over:
            raise Stopping(self.draining)
        if len(self.connections) > self.config.limits.connections:
            raise LimitReached("limits.connections", self.config.limits.connections)
        limit = self.config.limits.user_connections
        own = sum(same_user(each.peer, peer) for each in self.connections)
        if own > limit and peer.uid != self._own_uid:
            raise LimitReached("limits.user_connections", limit)

    def disconnected(self, connection: Connection) -> None:
        """Take it that a connection is gone."""
        self.connections.pop(connection, None)
        self.counts.connections = len(self.connections)
        if not self.connections:
            self.on_empty.set()

    def new_id(self) -> int:
        """Return a number that nothing else has, also not of a daemon before: for subscriptions, epochs, clients."""
        self._last_id += 1
        return self._last_id

    def allow(self, peer: Peer, action: Action, names: Iterable[str]) -> None:
        """Check that a peer may do this to all of these.

        Raises:
            RuleMissing: A rule is missing; it was counted and logged.
        """
        for name in names:
            try:
                self.rules.check(peer, action, name)
            except RuleMissing as refusal:
                self.refused(refusal)
                raise

    def allow_any(self, peer: Peer, action: Action, name: str) -> None:
        """Check that a peer may do this to anything at all, where names are no part of the rules.

        Raises:
            RuleMissing: It may not; it was counted and logged.
        """
        if not self.rules.allows_any(peer, action):
            self.allow(peer, action, [name])

    def visible(self, client: Client) -> list[Held]:
        """Return the open spaces that a client may know of: its own, and those that a rule names at all."""
        return [held for held in self.spaces.open.values() if self.sees(client, held)]

    def sees(self, client: Client, held: Held) -> bool:
        """Say whether a client may know of a space."""
        return held.producer is client or self.may_name(client.peer, held.name)

    def may_name(self, peer: Peer, name: str) -> bool:
        """Say whether a rule lets a peer do anything at all to a space of this name."""
        return any(self.rules.allows(peer, action, name) for action in Action)

    def check_charge(self, client: Client, held: Held) -> None:
        """Check that a space is a client's own, or that it may see to it.

        Raises:
            RuleMissing: Neither.
        """
        if held.producer is not client:
            self.allow(client.peer, Action.ADMIN, [held.name])

    def refused(self, refusal: RuleMissing) -> None:
        """Count and log a missing rule."""
        self.counts.refusals[refusal.action] += 1
        self.lines.warn("rule", "refused", str(refusal))

    # -- inside ------------------------------------------------------------------

    def _may_kill(self, peer: Peer) -> bool:
        return self.rules.may_kill(peer)  # those of now: they are replaced as a whole
