"""How every kind of bridge runs: on a connection to the daemon, until it ends or is told to."""

import signal
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskStatus

from ...bridging.telling import Negotiated, Tell, Told
from ...bus.abc import EventBus
from ..printing import print_json_lines, print_lines
from ..running import run
from ..talking import Where

PATIENCE = 10.0
"""Seconds within which a daemon that is not there yet is tried again: both may be started together."""

Work = Callable[[EventBus, Tell], Awaitable[object]]
"""Does what the bridge is for, and tells of it."""


def cross(kind: str, place: Where, work: Work, *, as_json: bool) -> None:
    """Run a bridge until it ends by itself, or by SIGINT or SIGTERM: then it leaves as it would have anyway."""

    async def crossing() -> None:
        from ...client.remote import connect  # noqa: PLC0415 - takes a while; wrong usage need not wait for it

        name = f"iommubus bridge {kind}"
        async with (
            connect(str(place.address), name=name, identity=place.identity, patience=PATIENCE) as bus,
            anyio.create_task_group() as tasks,
        ):
            await tasks.start(_end_at_signal, tasks.cancel_scope)
            await work(bus, _print_json if as_json else _print)
            tasks.cancel_scope.cancel()

    run(f"bridge {kind}", crossing)


async def _end_at_signal(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return


def _print(told: Told) -> None:
    if isinstance(told, Negotiated):
        agreed = ", ".join(told.agreed) or "nothing"
        print_lines([f"{told.peer}: agreed on {agreed}", *(f"  {lack}" for lack in told.lacks)])
    else:
        print_lines([f"{'! ' if told.trouble else ''}{told.text}"])


def _print_json(told: Told) -> None:
    if isinstance(told, Negotiated):
        lacks = [{"what": lack.what, "why": lack.why} for lack in told.lacks]
        print_json_lines([{"peer": told.peer, "agreed": list(told.agreed), "lacks": lacks}])
    else:
        print_json_lines([{"notice": told.text, "trouble": told.trouble}])
