"""Connected streams, and what their plans do to the bytes."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio
import pytest
from anyio.abc import ByteStream
from hypothesis import given, strategies as st

from iommubus.testing import Plan, PlannedStream, stream_pair
from tests.actors import settle
from tests.loops import every_loop

LINE: Final = bytes(range(100))


async def read(stream: ByteStream) -> tuple[list[bytes], str]:
    """Receive to the end; return the pieces, and what the end was."""
    pieces: list[bytes] = []
    while True:
        try:
            pieces.append(await stream.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as end:
            return pieces, type(end).__name__


@every_loop
async def test_bytes_go_both_ways() -> None:
    one, other = stream_pair()
    await one.send(b"ping")
    await other.send(b"pong")

    assert await other.receive() == b"ping"
    assert await one.receive(2) == b"po"
    assert await one.receive() == b"ng"


@every_loop
async def test_bytes_arrive_in_the_pieces_of_the_plan() -> None:
    one, other = stream_pair(Plan(pieces=(1, 3)))
    await one.send(b"abcd")
    await one.send(b"efghi")
    await one.aclose()

    assert await read(other) == ([b"a", b"bcd", b"e", b"fgh", b"i"], "EndOfStream")


@every_loop
async def test_a_piece_that_is_not_taken_whole_goes_on() -> None:
    one, other = stream_pair(Plan(pieces=(3,)))
    await one.send(b"abcdef")
    await one.aclose()

    assert [await other.receive(most) for most in (2, 2, 2, 2)] == [b"ab", b"c", b"de", b"f"]


@every_loop
async def test_a_piece_waits_for_no_bytes_that_have_not_come() -> None:
    one, other = stream_pair(Plan(pieces=(4,)))
    await one.send(b"ab")
    assert await other.receive() == b"ab"
    await one.send(b"cdefgh")
    assert [await other.receive(), await other.receive()] == [b"cd", b"efgh"]


@every_loop
async def test_a_link_is_cut_after_as_many_bytes_as_the_plan_says() -> None:
    """What came before arrives; both ends are told, at what they do next."""
    for after in (0, 1, 99, 100):
        one, other = stream_pair(Plan(cut_after=after))
        await other.send(b"on its way")
        await one.send(LINE)
        with pytest.raises(anyio.BrokenResourceError):
            await one.send(b"more")
        pieces, end = await read(other)
        assert (b"".join(pieces), end) == (LINE[:after], "BrokenResourceError")
        assert await read(one) == ([b"on its way"], "BrokenResourceError")


@every_loop
async def test_a_cut_wakes_whoever_waits() -> None:
    one, other = stream_pair(Plan(window=1))
    ends: list[str] = []

    async def receive() -> None:
        ends.append((await read(one))[1])

    async def send() -> None:
        with pytest.raises(anyio.BrokenResourceError):
            await one.send(b"abc")
        ends.append("sent")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        tasks.start_soon(send)
        await settle()
        assert ends == []
        other.cut()
    assert sorted(ends) == ["BrokenResourceError", "sent"]


@every_loop
async def test_what_is_held_back_arrives_when_it_is_released() -> None:
    one, other = stream_pair(Plan(held=True))
    await one.send(b"early")
    got: list[tuple[list[bytes], str]] = []

    async def receive() -> None:
        got.append(await read(other))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await one.aclose()
        await settle()
        assert got == []
        one.release()
    assert got == [([b"early"], "EndOfStream")]


@every_loop
async def test_what_is_held_back_when_the_link_is_cut_is_lost() -> None:
    one, other = stream_pair()
    one.hold()
    await one.send(b"lost")
    one.cut()
    one.release()

    assert await read(other) == ([], "BrokenResourceError")


@every_loop
async def test_sending_waits_while_the_window_is_full() -> None:
    one, other = stream_pair(Plan(window=4))
    sent: list[bytes] = []

    async def send() -> None:
        for line in (b"abcd", b"efghij"):
            await one.send(line)
            sent.append(line)
        await one.send_eof()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await settle()
        assert sent == [b"abcd"]
        pieces, end = await read(other)
        assert (b"".join(pieces), max(map(len, pieces)), end) == (b"abcdefghij", 4, "EndOfStream")


@every_loop
async def test_an_end_that_is_closed_says_so_to_both() -> None:
    one, other = stream_pair()
    await one.send(b"last words")
    await one.aclose()

    with pytest.raises(anyio.ClosedResourceError):
        await one.send(b"x")
    assert await read(one) == ([], "ClosedResourceError")
    with pytest.raises(anyio.BrokenResourceError):
        await other.send(b"x")
    assert await read(other) == ([b"last words"], "EndOfStream")


@every_loop
async def test_one_direction_may_end_alone() -> None:
    one, other = stream_pair()
    await one.send_eof()

    with pytest.raises(anyio.ClosedResourceError):
        await one.send(b"x")
    await other.send(b"still here")
    assert await one.receive() == b"still here"
    assert await read(other) == ([], "EndOfStream")


@every_loop
async def test_a_stream_has_one_sender_and_one_receiver() -> None:
    one, _ = stream_pair(Plan(window=1))

    async def twice(call: Callable[[], Coroutine[Any, Any, object]]) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await settle()
            with pytest.raises(anyio.BusyResourceError):
                await call()
            tasks.cancel_scope.cancel()

    await twice(lambda: one.send(b"ab"))
    await twice(one.receive)
    with pytest.raises(ValueError, match="max_bytes=0"):
        await one.receive(0)


@given(st.integers(), st.integers(1, 50), st.integers(1, 50))
def test_a_seed_makes_a_plan_that_is_always_the_same(seed: int, most: int, cut: int) -> None:
    plan = Plan.seeded(seed, most=most, cut_within=cut)

    assert plan == Plan.seeded(seed, most=most, cut_within=cut)
    assert set(plan.pieces) <= set(range(1, most + 1))
    assert plan.cut_after is not None
    assert 0 <= plan.cut_after < cut
    assert Plan.seeded(seed).cut_after is None


@pytest.mark.parametrize("wrong", [{"pieces": (1, 0)}, {"window": 0}, {"cut_after": -1}])
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="sizes are at least one byte"):
        Plan(**wrong)  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(0, 200), st.lists(st.integers(1, 9), max_size=4))
def test_however_a_link_is_what_arrives_is_the_beginning_of_what_was_sent(
    lines: list[bytes], cut: int, pieces: list[int]
) -> None:
    """All of it, or as much as the plan lets through."""
    sent = b"".join(lines)

    async def send(stream: PlannedStream) -> None:
        async with stream:
            for line in lines:
                try:
                    await stream.send(line)
                except anyio.BrokenResourceError:
                    return

    async def case() -> None:
        one, other = stream_pair(Plan(tuple(pieces), cut_after=cut, window=7))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, one)
            got, end = await read(other)
            assert b"".join(got) == sent[:cut]
            assert end == ("BrokenResourceError" if sent and len(sent) >= cut else "EndOfStream")

    anyio.run(case)
