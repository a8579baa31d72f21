"""Waiting for everybody, through the daemon.

First all that was published here before is said; then the daemon is asked, and
answers when nobody uses it any more.  If the connection is lost meanwhile, both are
done again on the next one, within the same deadline.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from anyio import CancelScope

from ..bus.reports import MapFailure, Missing, Outcome, SyncReport
from ..errors import Disconnected, IommubusError, Stopping, SyncFailed
from ..ledger import OldPieces
from ..ranges import LAST
from ..wire.failures import to_error
from ..wire.messages import Message, syncing
from ..wire.messages.syncing import Synced, SyncRefused
from ..wire.runs import from_pieces
from .channel import MICROSECONDS, Channel
from .link import DAEMON, Link
from .reconnect import Keeper

ANSWER_ALLOWANCE: Final = 1.0
"""Seconds that the answer of a daemon may take beyond the deadline: the daemon knows
who is missing, and here nobody does."""

TIMEOUT_LIMIT: Final = 1e9
"""Most seconds of a deadline that are said, some thirty years: there is no number for "as long as it takes"."""

Words = Callable[[int, int], syncing.Sync]
"""Makes the request of its number and the microseconds that it may take."""


async def sync_over(keeper: Keeper, links: Sequence[Link], words: Words, timeout: float) -> SyncReport:
    """Wait until nobody uses what was unmapped before.

    Args:
        keeper: Keeps the connection.
        links: Those of this client's spaces among the ones that are meant.
        words: Make the request.
        timeout: Seconds that it may take.

    Raises:
        SyncFailed: Somebody may still use it, or could not apply a MAP; or the daemon could not be asked.
        IommubusError: The daemon refuses to be asked; why.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    end = start + timeout
    while True:
        channel = _said_at_once(keeper, links) or await _all_said(keeper, links, end)
        if channel is None:
            raise _unasked(links, f"is not connected: {keeper.reason}")
        handed = {link: link.member.handed for link in links}
        keeper.on_sync()
        parts = await _ask(channel, words, end - clock())
        if parts:
            outcomes = _judge(parts, handed)
            return SyncReport(outcomes, clock() - start)
        if parts is None:
            raise _unasked(links, f"has not answered within {timeout:g} s")


def _said_at_once(keeper: Keeper, links: Sequence[Link]) -> Channel | None:
    """Say all that was published before, if there is room for it on the connection; return that, else `None`."""
    channel = keeper.channel
    if channel is None or not channel.open or keeper.error is not None:
        return None
    return channel if all(link.gone or link.say_all(channel) for link in links) else None


async def _all_said(keeper: Keeper, links: Sequence[Link], end: float) -> Channel | None:
    """Return a connection on which all was said that was published before; `None` if there is none in time."""
    with CancelScope(deadline=end):
        while True:
            channel = await keeper.wait_open()
            found = [await _said(keeper, link) for link in links if not link.gone]
            if channel.open and all(one is channel for one in found):
                return channel
    return None


async def _said(keeper: Keeper, link: Link) -> Channel:
    """Do `Link.flushed`; where the daemon does not take a space, a `sync` cannot promise anything about it."""
    try:
        return await link.flushed()
    except IommubusError as refusal:
        if keeper.error is not None:
            raise
        raise SyncFailed([link.missing(f"does not take it: {refusal}", refusal)], link.pop_failures()) from refusal


async def _ask(channel: Channel, words: Words, seconds: float) -> list[Message] | None:
    """Return the parts of the answer; none if the connection is lost, and `None` if it is late."""
    left = min(max(seconds, 0.0), TIMEOUT_LIMIT)
    microseconds = round(left * MICROSECONDS)
    try:
        return await channel.request_within(lambda number: words(number, microseconds), left + ANSWER_ALLOWANCE)
    except Disconnected:
        return []
    except Stopping:  # the next daemon will answer
        with CancelScope(deadline=asyncio.get_running_loop().time() + left + ANSWER_ALLOWANCE) as scope:
            await channel.wait_lost()
        return None if scope.cancelled_caught else []


def _judge(parts: list[Message], handed: dict[Link, int]) -> tuple[Outcome, ...]:
    """Return who counted, if the answer promises that nothing old is in use.

    Raises:
        SyncFailed: It does not; or a MAP could not be applied.
    """
    failures = [failure for link in handed for failure in link.pop_failures()]
    for part in parts:
        if isinstance(part, SyncRefused):
            raise _refused(part, failures)
    for link, number in handed.items():
        link.cover(number)
    if failures:
        raise SyncFailed([], failures)
    return tuple(_outcome(one) for part in parts if isinstance(part, Synced) for one in part.outcomes)


def _outcome(said: syncing.Outcome) -> Outcome:
    return Outcome(said.subscriber, said.space, said.how, said.took_us / MICROSECONDS)


def _refused(answer: SyncRefused, failures: list[MapFailure]) -> SyncFailed:
    missing = [_missing(one) for one in answer.missing]
    if answer.truncated:
        missing.append(Missing("others", "*", "are missing, too many to be named", _everything()))
    failures += [
        MapFailure(one.subscriber, one.space, one.first, one.last, to_error(one.cause), one.count)
        for one in answer.failures
    ]
    return SyncFailed(missing, failures)


def _missing(said: syncing.Missing) -> Missing:
    pieces = from_pieces(said.pieces, said.ranges)
    cause = None if said.cause is None else to_error(said.cause)
    return Missing(said.subscriber, said.space, said.reason, pieces, cause)


def _unasked(links: Sequence[Link], reason: str) -> SyncFailed:
    """Return what says that the daemon could not be asked: all may be in use that was removed since it last was."""
    failures = [failure for link in links for failure in link.pop_failures()]
    missing = [link.missing(reason) for link in links] or [Missing(DAEMON, "*", reason, _everything())]
    return SyncFailed(missing, failures)


def _everything() -> OldPieces:
    return OldPieces((), ((0, LAST),), ((0, LAST),))


async def wait_drained(keeper: Keeper, links: Sequence[Link], words: Callable[[int], syncing.Drain]) -> None:
    """Wait until every mailbox that a space feeds is at most half full, here and in the daemon.

    Raises:
        IommubusError: The daemon refuses to be asked; why.
    """
    while True:
        end = asyncio.get_running_loop().time() + TIMEOUT_LIMIT
        channel = _said_at_once(keeper, links) or await _all_said(keeper, links, end)
        if channel is None:
            continue
        try:
            await channel.request(words)
        except Disconnected:
            continue
        return
