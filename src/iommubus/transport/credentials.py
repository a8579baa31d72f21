"""Who is at the other end: what the kernel or a certificate says, never the peer itself.

Whether a process has ended is asked of a *pidfd*, which stays with the process;
its number may soon be another's.  Where the number is all there is (a record of
an earlier daemon, a kernel without ``SO_PEERPIDFD``), the time at which the
process started says whether it is still the same one.

Times of processes are in clock ticks since boot, as ``/proc/PID/stat`` has them.

Who connected, or listens, need not be who serves: a server may fork once it listens,
or be handed a listening socket.  Who served is said by what it sent (`sender_of`).

Source: ``unix(7)`` under SO_PEERCRED and SCM_CREDENTIALS, ``include/uapi/asm-generic/socket.h`` for
SO_PEERGROUPS (Linux 4.13) and SO_PEERPIDFD (6.5), ``pidfd_open(2)`` (5.3),
``proc_pid_stat(5)``.
"""

import os
import select
import signal
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from errno import EINVAL, ENODATA, ENOENT, ENOPROTOOPT, ERANGE, ESRCH
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio
from msgspec import Struct

from ..errors import NoCredentials, PeerGone

SO_PEERGROUPS: Final = 59
SO_PEERPIDFD: Final = 77

UCRED: Final = struct.Struct("iII")
"""``struct ucred``: pid, uid, gid."""

GROUPS: Final = 64
"""Groups of a peer that one question has room for; one with more is asked again."""

STARTED: Final = 19
"""Place of a process's start among the fields behind its name: ``starttime`` is
the 22nd of all, and the name, which may hold anything, is the 2nd."""


class Peer(Struct, frozen=True):
    """Who is at the other end, as far as that is proven.

    Attributes:
        pid: Number of the process that connected, 0 if it cannot be seen.
        uid: Its user, `None` if nobody vouches for one.
        gids: Its groups, its own first.
        names: Those in its certificate.
    """

    pid: int = 0
    uid: int | None = None
    gids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.names:
            return f"the certificate of {', '.join(self.names)}"
        if self.uid is not None:
            return f"uid {self.uid} gid {', '.join(map(str, self.gids))} (process {self.pid})"
        return "a peer without a name"


def peer_of(sock: socket.socket) -> Peer:
    """Return who connected to a Unix socket.

    Raises:
        NoCredentials: It is no Unix socket.
    """
    if sock.family != socket.AF_UNIX:
        raise NoCredentials("it came over no Unix socket")
    pid, uid, gid = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    others = [other for other in peer_groups(sock) if other != gid]
    return Peer(pid, uid, (gid, *others))


def peer_groups(sock: socket.socket, room: int = GROUPS) -> tuple[int, ...]:
    """Return the supplementary groups of who connected; a kernel that does not say them knows of none."""
    size = struct.calcsize("I")
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, room * size)
    except OSError as failure:
        if failure.errno == ERANGE:
            return peer_groups(sock, 2 * room)
        if failure.errno in {ENOPROTOOPT, ENODATA}:
            return ()
        raise
    return struct.unpack(f"{len(raw) // size}I", raw)


def names_in(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names that a certificate vouches for.

    Those are its alternative names (DNS, URI, email), and only where there are
    none its common name, as browsers do.

    Args:
        certificate: What `ssl.SSLSocket.getpeercert` returned.
    """
    shown = certificate or {}
    alternative = [name for kind, name in shown.get("subjectAltName", ()) if kind in {"DNS", "URI", "email"}]
    common = [name for part in shown.get("subject", ()) for kind, name in part if kind == "commonName"]
    return tuple(alternative or common)


def tls_peer(connection: ssl.SSLObject | ssl.SSLSocket) -> Peer:
    """Return who is at the other end of a TLS connection, after its handshake.

    Raises:
        NoCredentials: Its certificate has no name, or it showed none.
    """
    names = names_in(connection.getpeercert())
    if not names:
        raise NoCredentials("its certificate has no name")
    return Peer(names=names)


# -- processes ---------------------------------------------------------------


class Process:
    """A process that is watched until it ends.

    Args:
        pid: Its number.
        start: When it started, in ticks since boot.
        fd: A pidfd of it; this object closes it.
    """

    __slots__ = ("_fd", "pid", "start")

    def __init__(self, pid: int, start: int, fd: int) -> None:
        self.pid = pid
        self.start = start
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    @property
    def ended(self) -> bool:
        """Whether it has ended; one that nobody has waited for yet has."""
        return has_ended(self._fd)

    async def wait_exit(self) -> None:
        """Wait until it has ended."""
        await wait_exit(self._fd)

    def another(self) -> "Process":
        """Return the same process once more, for somebody who watches it for longer.

        Raises:
            OSError: There is no room for another descriptor.
        """
        return Process(self.pid, self.start, os.dup(self._fd))

    def kill(self) -> None:
        """Kill it, as far as this process may; one that has ended is left alone.

        Raises:
            PermissionError: It is another user's.
        """
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def close(self) -> None:
        """Stop watching it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def process_of(sock: socket.socket, accepted: int) -> Process:
    """Return the process that connected to a Unix socket.

    Args:
        sock: The connection.
        accepted: `ticks_now` when it was accepted, for kernels that give no
            pidfd of a peer: a process that started later is another one.

    Raises:
        NoCredentials: It cannot be seen from here: another pid namespace, or no Unix socket.
        PeerGone: It has ended.
    """
    pid = peer_of(sock).pid
    if not pid:
        raise NoCredentials("its process is in a pid namespace that cannot be seen from here")
    fd = peer_pidfd(sock, pid)
    if fd is not None:
        return watched(pid, fd)
    process = watched(pid, opened(pid))
    if process.start > accepted or hung_up(sock):
        process.close()
        raise PeerGone(pid)
    return process


def ask_for_sender(sock: socket.socket) -> None:
    """Have the kernel note who sends what a Unix socket receives, for `sender_of`; before it connects."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


async def sender_of(sock: socket.socket) -> Process:
    """Wait until something can be received, and return the process that sent it, which stays to be received.

    A kernel says of who listened, by the connection alone, whoever has taken it up since.

    Args:
        sock: The connection, without blocking, of which `ask_for_sender` was asked.
            Nothing was received from it; what is received later comes without names.

    Raises:
        NoCredentials: It cannot be seen from here, or nothing will come.
        PeerGone: It has ended.
        OSError: The connection broke, or there is no room for another descriptor.
    """
    pid = await sender_pid(sock)
    now = ticks_now()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    if not pid:
        raise NoCredentials("nothing came, or from a process in a pid namespace that cannot be seen from here")
    if pid == peer_of(sock).pid:
        return process_of(sock, now)
    process = process_numbered(pid)
    if process is None:
        raise PeerGone(pid)
    if process.start > now or hung_up(sock):
        process.close()
        raise PeerGone(pid)
    return process


async def sender_pid(sock: socket.socket) -> int:
    """Wait until something can be received, and return the number of who sent it; 0 if nobody can be seen."""
    while True:
        try:  # room for the name alone: descriptors that came with it are not opened here
            _, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(UCRED.size), socket.MSG_PEEK)
        except BlockingIOError:
            await anyio.wait_readable(sock)
            continue
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                return int(UCRED.unpack(data)[0])
        return 0


def process_said(pid: int, teller: int) -> Process | None:
    """Return the process of which another process said the number; `None` if it has ended.

    Args:
        pid: The number.
        teller: Number, here, of the process that said it; to one of another pid
            namespace it means another process.

    Raises:
        NoCredentials: It cannot be seen from here, or it is not known which one is meant.
        OSError: There is no room for another descriptor.
    """
    if numbers_of(teller) != (teller,):
        raise NoCredentials(f"process {teller}, which said the number {pid}, may count in another pid namespace")
    return process_numbered(pid)


def process_numbered(pid: int) -> Process | None:
    """Return the process that has this number now; `None` if it has ended.

    Raises:
        NoCredentials: It cannot be seen from here.
        OSError: There is no room for another descriptor.
    """
    try:
        fd = opened(pid)
    except PeerGone:
        return None
    except OSError as failure:
        if failure.errno in {EINVAL, ENOENT}:
            raise NoCredentials(f"{pid} is a thread, and no process") from failure
        raise
    start = start_of(pid)
    if start is None or has_ended(fd):
        ended = has_ended(fd)
        os.close(fd)
        if not ended:  # a mounted proc shows everybody their own processes alone, perhaps
            raise NoCredentials(f"when process {pid} started cannot be read")
        return None
    return Process(pid, start, fd)


def process_again(pid: int, start: int) -> Process | None:
    """Return the process that had this number and started then; `None` if it has ended."""
    try:
        process = watched(pid, opened(pid))
    except PeerGone:
        return None
    if process.start == start:
        return process
    process.close()
    return None


def peer_pidfd(sock: socket.socket, pid: int) -> int | None:
    """Return a pidfd of who connected; `None` if this kernel gives none.

    Raises:
        PeerGone: It has ended.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as failure:
        if failure.errno == ENOPROTOOPT:
            return None
        if failure.errno in {ENODATA, ESRCH}:
            raise PeerGone(pid) from failure
        raise


def opened(pid: int) -> int:
    """Return a pidfd of whoever has this number now.

    Raises:
        PeerGone: Nobody has.
    """
    try:
        return os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError) as failure:
        raise PeerGone(pid) from failure


def watched(pid: int, fd: int) -> Process:
    """Return the process behind a pidfd, which is closed if that has ended.

    Its number is its own as long as it has not ended.  So what was read of the
    number belongs to it, if it has not ended afterwards.

    Raises:
        PeerGone: It has ended.
    """
    start = start_of(pid)
    if start is None or has_ended(fd):
        os.close(fd)
        raise PeerGone(pid)
    return Process(pid, start, fd)


def has_ended(pidfd: int) -> bool:
    """Say whether the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


async def wait_exit(pidfd: int) -> None:
    """Wait until the process of a pidfd has ended."""
    while not has_ended(pidfd):
        await anyio.wait_readable(pidfd)


def start_of(pid: int) -> int | None:
    """Return when the process of this number started, in ticks since boot; `None` if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(b")")[2].split()[STARTED])


def numbers_of(pid: int) -> tuple[int, ...]:
    """Return the numbers of a process, in the pid namespace of ``/proc`` and in each inner one that it is in.

    There are none if it has ended.  A kernel without pid namespaces says nothing of them.

    Source: ``proc_pid_status(5)``, NSpid (Linux 4.1).
    """
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    said = [line.split()[1:] for line in status.splitlines() if line.startswith(b"NSpid:")]
    return tuple(map(int, said[0])) if said else (pid,)


def ticks_now() -> int:
    """Return the time since boot in ticks, as `start_of` counts them."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def boot_id() -> str:
    """Return the name of this boot of the machine: with another one, no process of before is left."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def hung_up(sock: socket.socket) -> bool:
    """Say whether the peer has closed its end, which it does by ending."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))
