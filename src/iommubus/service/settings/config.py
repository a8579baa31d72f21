"""The daemon's configuration: what can be set, and what it is if nobody does.

Times are in seconds, sizes in bytes.  What a setting may be stands beside its
name, and `settings` reads it from there.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from ...errors import AddressError, BadSetting
from ...transport.address import Address, TlsAddress, UnixAddress, check_listener, default_address, parse_address
from ...transport.tls import Identity
from .rules import Rule

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
OptionalSeconds = Annotated[float, Meta(ge=0, le=86_400)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """How much a peer may ask for.  Each bounds the memory or the descriptors that one peer can take.

    Attributes:
        frame: Most bytes of one frame.  A hand-over is at most a full FIFO and
            a piece of the table, some 5,000 events of 40 bytes; a power of two
            with room above that.
        connections: Most connections.  Each takes two sockets, a pidfd and a
            memory or two, and the unit file allows 16,384 descriptors.
        user_connections: Most connections of one user, so that nobody takes the place of everybody else:
            half of them.  The daemon's own user may have all.
        spaces: Most spaces of one producer: the functions of a PCI bus.
        endpoints: Most endpoints of one producer, beside those that come with
            spaces: four for each.
        subscriptions: Most subscriptions of one connection, as many as endpoints.
        observers: Most observers of one connection; each may keep 2 MiB.
        mappings: Most mappings of one space: 43 bytes each, so 45 MB.
        memories: Most memories of one connection: the 509 slots that vhost-user
            back ends and KVM have, and a few.
        unacknowledged: Most bytes sent to a subscriber that it has not
            acknowledged: four frames, so that one is in its hands and the next
            on the way.
    """

    frame: Annotated[int, Meta(ge=4096, le=2**26)] = 1 << 20
    connections: Count = 1024
    user_connections: Count = 512
    spaces: Count = 256
    endpoints: Count = 1024
    subscriptions: Count = 1024
    observers: Count = 16
    mappings: Count = 1 << 20
    memories: Count = 512
    unacknowledged: Annotated[int, Meta(ge=4096, le=2**30)] = 4 << 20


class Leases(Struct, frozen=True, forbid_unknown_fields=True):
    """How long a subscriber may use what it holds without a word from the daemon.

    Attributes:
        seconds: A lease, if the subscriber does not ask for another: half of
            what a Linux guest waits before it reports a soft lockup, for a
            `sync` may have to wait that long for one that is stopped.
        longest: The longest that is granted.  A daemon that restarts completes no
            `sync` before that much has passed.
        heartbeats: How many are sent in one lease, so that two may be lost.
    """

    seconds: Seconds = 10.0
    longest: Seconds = 60.0
    heartbeats: Annotated[int, Meta(ge=2, le=100)] = 3


class Deadlines(Struct, frozen=True, forbid_unknown_fields=True):
    """How long somebody is waited for.

    Attributes:
        hello: For a connection to say who it is, or to finish a frame: many
            round trips round the world.
        shutdown: For what waits to be handed over when the daemon is told to stop.
    """

    hello: Seconds = 5.0
    shutdown: Seconds = 10.0


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    """Where counters can be read; nowhere if there is no address.

    Attributes:
        listen: ``tcp:`` on loopback, or ``unix:``.
    """

    listen: str | None = None


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """How log lines are written, to standard error.

    Attributes:
        format: For people, or one JSON object a line.
        level: The least important lines that are written.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set.

    Attributes:
        listen: Addresses; empty means `default_address`, unless the service
            manager handed over sockets.
        socket_mode: Who may connect to a Unix socket: digits of `chmod`.
        state: The file that says who may still hold something, after the daemon
            has ended; beside the first Unix socket if it is not set.
        producer_grace: How long the spaces of a producer that was lost keep
            their mappings.
        tls: Certificates, for ``tls:`` addresses.
        limits: How much a peer may ask for.
        leases: How long subscribers may go on without the daemon.
        deadlines: How long somebody is waited for.
        rules: Who may do what.
        metrics: Where counters can be read.
        log: How log lines are written.
    """

    listen: tuple[str, ...] = ()
    socket_mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] = "0660"
    state: Annotated[str, Meta(min_length=1)] | None = None
    producer_grace: OptionalSeconds = 0.0
    tls: Identity | None = None
    limits: Limits = Limits()
    leases: Leases = Leases()
    deadlines: Deadlines = Deadlines()
    rules: tuple[Rule, ...] = ()
    metrics: Metrics = Metrics()
    log: Log = Log()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where to listen."""
        return tuple(map(parse_address, self.listen)) or (default_address(),)

    @property
    def mode(self) -> int:
        """Mode of a Unix socket."""
        return int(self.socket_mode, 8)

    def state_path(self, addresses: tuple[Address, ...]) -> str:
        """Return where the state is kept by a daemon that listens at ``addresses``.

        Beside a socket in ``/run`` it is gone after a reboot, and so is everybody
        whom it names.

        Raises:
            BadSetting: It has to be set, for there is no Unix socket.
        """
        if self.state is not None:
            return self.state
        for address in addresses:
            if isinstance(address, UnixAddress):
                return f"{address.path}.leases"
        raise BadSetting("the configuration", "state", "not set", "a path, where no Unix socket says one")


Problem = tuple[str, str, str]
"""The key of a setting, its value and what would be accepted."""

METRICS: Final = "tcp: on loopback, or unix:"


def problems(config: Config) -> list[Problem]:
    """Return what is wrong with settings that are each of their kind."""
    found = [*_listen_problems(config), *_metrics_problems(config), *_rule_problems(config)]
    if config.leases.seconds > config.leases.longest:
        accepted = f"at most leases.longest, which is {config.leases.longest:g}"
        found.append(("leases.seconds", f"{config.leases.seconds:g}", accepted))
    if config.limits.unacknowledged < config.limits.frame:
        accepted = f"at least limits.frame, which is {config.limits.frame}"
        found.append(("limits.unacknowledged", str(config.limits.unacknowledged), accepted))
    return found


def _listen_problems(config: Config) -> list[Problem]:
    found: list[Problem] = []
    for place, text in enumerate(config.listen):
        try:
            address = parse_address(text)
            check_listener(address)
        except AddressError as wrong:
            found.append((f"listen[{place}]", repr(text), wrong.reason))
            continue
        if isinstance(address, TlsAddress) and config.tls is None:
            found.append((f"listen[{place}]", repr(text), "tls: only with tls.certificate, tls.key and tls.authority"))
    return found


def _metrics_problems(config: Config) -> list[Problem]:
    text = config.metrics.listen
    if text is None:
        return []
    try:
        address = parse_address(text)
        check_listener(address)
    except AddressError as wrong:
        return [("metrics.listen", repr(text), f"{METRICS} ({wrong.reason})")]
    return [("metrics.listen", repr(text), METRICS)] if isinstance(address, TlsAddress) else []


def _rule_problems(config: Config) -> list[Problem]:
    wrong = [(place, rule.wrong) for place, rule in enumerate(config.rules)]
    return [(f"rules[{place}]", "about nobody, or about two things", reason) for place, reason in wrong if reason]
