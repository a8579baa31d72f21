"""The record of what was granted, which outlives the daemon.

It is on the disk before a subscription is confirmed: a daemon that is killed
right after that finds it when it is started again.  It says in which boot of
the machine it was written, for a reboot ends every process that it names, and
everything that was held under a lease.

A new record is written beside the old one, brought to the disk and renamed, and
then the directory is brought to the disk.  So a daemon that was killed at any
point leaves the one or the other, and so does a machine that lost its power:
without the first `fsync` that could leave an empty file, which nobody could
tell from a damaged one.

Everything here waits for the disk.  Call it from a worker thread.
"""

import os
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct, structs

from ...errors import LeasesUnreadable, LeasesUnwritable
from ...transport.lock import Lock
from .leases import ExitMember

VERSION: Final = 1
"""Form of the record; another one cannot be understood, and so nobody is served."""

LIMIT: Final = 1 << 24
"""Most bytes of a record that are read: a hundred thousand members, more than processes can be."""


class Granted(Struct, frozen=True, forbid_unknown_fields=True):
    """What the daemons of one boot have granted and nobody has proven to be over.

    Attributes:
        boot: Name of the boot.
        longest: Seconds of the longest lease.
        exits: Who is proven stopped by the end of a process.
        version: Form of the record.
    """

    boot: str
    longest: Annotated[float, Meta(ge=0, le=10**9)] = 0.0
    exits: tuple[ExitMember, ...] = ()
    version: int = VERSION


class Change(Struct, frozen=True):
    """What is to be different in a record; all of it is written at once.

    Attributes:
        grant: Seconds of a lease that is about to be granted; 0 for none.
        settle: Longer leases than this one have run out; `None` if nothing is known of that.
        add: Who is about to be proven stopped by the end of a process.
        forget: Who has let go, or is gone.
        anew: Whether it is written although nothing is different: to see that the disk takes it.
    """

    grant: float = 0.0
    settle: float | None = None
    add: tuple[ExitMember, ...] = ()
    forget: frozenset[ExitMember] = frozenset()
    anew: bool = False

    def of(self, granted: Granted) -> Granted:
        """Return what a record says after it; who is added and forgotten has let go meanwhile."""
        settled = granted.longest if self.settle is None else min(granted.longest, self.settle)
        left = tuple(member for member in granted.exits if member not in self.forget)
        new = tuple(member for member in self.add if member not in left and member not in self.forget)
        return structs.replace(granted, longest=max(settled, self.grant), exits=left + new)


class Disk:
    """The calls by which a record gets onto the disk, one method each."""

    def create(self, path: str) -> int:
        """Return a descriptor of a new, empty file that only this user can read."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, fd: int, data: bytes) -> int:
        """Write some of ``data``; return how many bytes."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """Bring a file or directory to the disk."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """Put a file in the place of another, in one step."""
        os.replace(old, new)  # noqa: PTH105  # the system call, by its name

    def directory(self, path: str) -> int:
        """Return a descriptor of a directory."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Record:
    """The record of this daemon, which nobody else may use meanwhile.

    What earlier daemons of this boot granted stays in it until `settle` or
    `forget` says that it is over, however often the daemon is restarted.

    Args:
        path: The file; it need not exist, its directory has to.
        boot: Name of this boot.
        disk: How the file is written.

    Attributes:
        before: What earlier daemons of this boot granted.
        granted: What the record says now.

    Raises:
        LeasesUnreadable: It is there and cannot be understood.
        LeasesUnwritable: Its lock cannot be made.
        LockTaken: Another daemon uses it.
    """

    def __init__(self, path: str, boot: str, disk: Disk | None = None) -> None:
        self._path = path
        self._disk = disk or Disk()
        try:
            self._lock = Lock(path)
        except OSError as failure:
            raise LeasesUnwritable(path, failure.strerror or str(failure)) from failure
        try:
            self.before = load(path, boot)
        except LeasesUnreadable:
            self._lock.close()
            raise
        self.granted = self.before
        self._sure = True

    def close(self) -> None:
        """Let another daemon use it; what was granted stays in it."""
        self._lock.close()

    def change(self, change: Change) -> None:
        """Have a change on the disk.

        Raises:
            LeasesUnwritable: It is not, as far as is known, so nothing of it must be relied on.
        """
        granted = change.of(self.granted)
        if granted == self.granted and self._sure and not change.anew:
            return
        self._sure = False  # until it is written through, the disk has the old one or the new one
        try:
            write(self._disk, self._path, encode(granted))
        except OSError as failure:
            raise LeasesUnwritable(self._path, failure.strerror or str(failure)) from failure
        self.granted, self._sure = granted, True

    def grant_lease(self, seconds: float) -> None:
        """Have it on the disk that there is a lease of this length.

        Raises:
            LeasesUnwritable: It is not, so the lease must not be granted.
        """
        self.change(Change(grant=seconds))

    def add_exit(self, member: ExitMember) -> None:
        """Have it on the disk that a process has to be waited for.

        Raises:
            LeasesUnwritable: It is not, so the subscription must not be confirmed.
        """
        self.change(Change(add=(member,)))

    def forget(self, members: Iterable[ExitMember]) -> None:
        """Have it on the disk that these have let go, or are gone.

        Raises:
            LeasesUnwritable: It is not; they are waited for after a restart, which ends at once.
        """
        self.change(Change(forget=frozenset(members)))

    def settle(self, longest: float) -> None:
        """Have it on the disk that longer leases than this one have run out.

        Raises:
            LeasesUnwritable: It is not; a restart waits longer than it has to.
        """
        self.change(Change(settle=longest))


def encode(granted: Granted) -> bytes:
    """Return the bytes of a record."""
    return msgspec.json.encode(granted) + b"\n"


def load(path: str, boot: str) -> Granted:
    """Return what was granted in this boot.

    Without a file that is nothing, and so it is if the file is of another boot.

    Raises:
        LeasesUnreadable: It is there and cannot be understood.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # a text, as everything here
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        return Granted(boot)
    except OSError as failure:
        raise LeasesUnreadable(path, failure.strerror or str(failure)) from failure
    granted = _decoded(path, data)
    return granted if granted.boot == boot else Granted(boot)


def write(disk: Disk, path: str, data: bytes) -> None:
    """Put ``data`` in the place of a file, so that there is always either the old or the new.

    Raises:
        OSError: That failed, and either of them may be there.
    """
    new = f"{path}.new"
    fd = disk.create(new)
    try:
        rest = data
        while rest:
            rest = rest[disk.write(fd, rest) :]
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(new, path)
    directory = disk.directory(os.path.dirname(path) or ".")  # noqa: PTH120  # a text, as everything here
    try:
        disk.sync(directory)
    finally:
        disk.close(directory)


def _decoded(path: str, data: bytes) -> Granted:
    if len(data) > LIMIT:
        raise LeasesUnreadable(path, f"it has more than {LIMIT} bytes")
    try:
        granted = msgspec.json.decode(data, type=Granted)
    except msgspec.MsgspecError as failure:
        raise LeasesUnreadable(path, str(failure)) from failure
    if granted.version != VERSION:
        raise LeasesUnreadable(path, f"it has the form {granted.version}, this daemon knows {VERSION}")
    return granted
