"""The judge, shown right and wrong copies and caches."""

from iommubus.caps import Perm
from iommubus.demo.judge import EndpointJudge, Held, Judge, Violation
from iommubus.demo.pages import Target
from iommubus.demo.script import LookupStep, MapStep, UnmapStep

RW = Perm.RW


def mapped(line: int, page: int, target: int, pages: int = 1) -> MapStep:
    return MapStep(line, None, "s", page, page + pages * 0x1000 - 1, target, RW)


def unmapped(line: int, page: int, pages: int = 1) -> UnmapStep:
    return UnmapStep(line, None, "s", page, page + pages * 0x1000 - 1)


def judge(*steps: MapStep | UnmapStep | LookupStep) -> Judge:
    judge = Judge("s", 0x1000, ((0, 0x4FFF), (0x6000, 0xFFFF)))
    for step in steps:
        judge.follow(step)
    return judge


def test_a_copy_is_right_if_it_is_what_the_trace_says_of_its_ranges() -> None:
    assert (
        judge(mapped(1, 0x4000, 0x10000, 3)).check_copy("vfio", {0x4000: (0x10000, RW), 0x6000: (0x12000, RW)}) is None
    )


def test_a_page_that_was_not_unmapped_is_named_with_the_lines() -> None:
    seen = judge(mapped(1, 0x1000, 0x8000), mapped(3, 0x2000, 0x9000))
    seen.passed()
    seen.follow(unmapped(7, 0x1000))
    seen.follow(mapped(9, 0x3000, 0xA000))
    held = {0x1000: (0x8000, RW), 0x2000: (0x9000, RW), 0x3000: (0xA000, RW)}

    violation = seen.check_copy("vfio", held)

    assert violation == Violation("s", "vfio", 7, 3, 9, 0x1000, "unmapped", "-> 0x8000 RW")
    assert str(violation) == (
        "vfio on s: page 0x1000 should be unmapped since line 7, but vfio has it -> 0x8000 RW; "
        "found by the sync after line 9, all was well after line 3"
    )


def test_wrong_targets_missing_pages_and_wrong_permissions_are_violations() -> None:
    seen = judge(mapped(5, 0x1000, 0x8000))

    wrong: list[dict[int, Target]] = [{0x1000: (0x9000, RW)}, {}, {0x1000: (0x8000, Perm.R)}]
    found = [seen.check_copy("vfio", held) for held in wrong]

    assert [(each.event, each.should, each.holds) for each in found if each is not None] == [
        (5, "-> 0x8000 RW", "-> 0x9000 RW"),
        (5, "-> 0x8000 RW", "unmapped"),
        (5, "-> 0x8000 RW", "-> 0x8000 R"),
    ]


def test_a_page_that_no_line_mapped_is_a_violation_and_others_are_counted() -> None:
    violation = judge(mapped(5, 0x1000, 0x8000)).check_copy("vfio", {0x0: (0, RW), 0x3000: (0, RW)})

    assert violation is not None
    assert (violation.event, violation.page, violation.others) == (0, 0, 2)
    assert "since no line" in str(violation)
    assert "and 2 more pages differ" in str(violation)


def test_a_cache_may_hold_less_than_is_mapped() -> None:
    seen = judge(mapped(1, 0x5000, 0x8000), LookupStep(2, None, "s", 0x5000, 0x8000))

    assert seen.check_cache("vhost", []) is None
    assert seen.check_cache("vhost", [Held(0x5000, (0x8000, RW), 2)]) is None


def test_a_cached_page_that_was_unmapped_since_is_a_violation_even_if_it_is_mapped_again() -> None:
    seen = judge(mapped(1, 0x1000, 0x8000), unmapped(3, 0x1000), mapped(4, 0x1000, 0x8000))

    stale = seen.check_cache("vhost", [Held(0x1000, (0x8000, RW), 2)])
    fresh = seen.check_cache("vhost", [Held(0x1000, (0x8000, RW), 4)])

    assert fresh is None
    assert stale is not None
    assert (stale.event, stale.should) == (4, "dropped (unmapped in line 3)")
    assert stale.holds == "-> 0x8000 RW, asked for at line 2"


def test_a_cached_page_that_leads_elsewhere_is_a_violation() -> None:
    violation = judge(mapped(1, 0x1000, 0x8000)).check_cache("vhost", [Held(0x1000, (0x9000, RW), 2)])

    assert violation is not None
    assert (violation.page, violation.should) == (0x1000, "-> 0x8000 RW")


def test_a_map_over_a_live_one_takes_away_only_what_it_changes() -> None:
    seen = judge(mapped(1, 0x1000, 0x8000, 2), mapped(3, 0x1000, 0x8000), mapped(4, 0x2000, 0xF000))
    same, changed = Held(0x1000, (0x8000, RW), 2), Held(0x2000, (0x9000, RW), 2)

    assert seen.check_cache("vhost", [same]) is None
    assert seen.check_cache("vhost", [same, changed]) is not None
    assert seen.check_copy("vfio", {0x1000: (0x8000, RW), 0x2000: (0xF000, RW)}) is None


def test_what_is_left_of_a_closed_space_is_a_violation() -> None:
    seen = judge(mapped(1, 0x1000, 0x8000))

    assert seen.check_empty("vfio", 0) is None
    assert "should be gone with the space" in str(seen.check_empty("vfio", 3))


# -- endpoints -----------------------------------------------------------------


def between_two_spaces() -> EndpointJudge:
    spaces = {name: Judge(name, 0x1000, ((0, 0x4FFF), (0x6000, 0xFFFF))) for name in ("a", "b")}
    spaces["a"].follow(MapStep(1, None, "a", 0x4000, 0x6FFF, 0x10000, RW))
    spaces["b"].follow(MapStep(2, None, "b", 0x1000, 0x1FFF, 0x20000, RW))
    spaces["b"].follow(MapStep(9, None, "b", 0x2000, 0x2FFF, 0x21000, RW))
    return EndpointJudge("device", 0x1000, spaces)


OF_A: dict[int, Target] = {0x4000: (0x10000, RW), 0x6000: (0x12000, RW)}
OF_B: dict[int, Target] = {0x1000: (0x20000, RW), 0x2000: (0x21000, RW)}


def test_who_follows_must_hold_what_its_endpoint_sees_by_then() -> None:
    seen = between_two_spaces()
    places: list[tuple[str | None, dict[int, Target]]] = [("a", OF_A), ("b", OF_B), (None, {}), ("a", OF_A)]

    assert seen.check({}, 2) is None
    for line, (space, right) in enumerate(places, 3):
        seen.move(space, line)
        assert seen.check(right, line) is None
        assert all(seen.check(wrong, line) is not None for wrong in (OF_A, OF_B, {}) if wrong != right)


def test_what_was_kept_after_a_move_is_named_with_the_line_of_the_move() -> None:
    seen = between_two_spaces()
    seen.move("a", 3)
    seen.check(OF_A, 4)
    seen.move("b", 5)

    assert seen.check(OF_A, 6) == Violation("b", "device", 5, 4, 6, 0x1000, "-> 0x20000 RW", "unmapped", 3)
    assert seen.check({**OF_A, **OF_B}, 6) == Violation("b", "device", 5, 4, 6, 0x4000, "unmapped", "-> 0x10000 RW", 1)
    assert seen.check({0x1000: OF_B[0x1000]}, 10) == Violation(
        "b", "device", 9, 4, 10, 0x2000, "-> 0x21000 RW", "unmapped"
    )


def test_what_was_kept_after_a_detach_is_on_no_space_and_the_reason_is_told() -> None:
    seen = between_two_spaces()
    seen.move("a", 3)
    seen.move(None, 5, " (detached)")

    assert seen.check(OF_A, 6) == Violation(
        "no space", "device", 5, 0, 6, 0x4000, "unmapped (detached)", "-> 0x10000 RW", 1
    )
    found = seen.check_empty(2)
    assert found is not None
    assert (found.subscriber, found.holds) == ("device", "among 2 left")
    assert seen.check_empty(0) is None
