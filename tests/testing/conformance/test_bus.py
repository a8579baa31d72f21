"""The suite for a bus passes for the bus there is, and finds each mistake of others."""

from typing import Final

import anyio
import pytest

from iommubus import Bus
from iommubus.errors import CaseFailed, ConformanceFailed
from iommubus.testing import bus_cases, check_bus
from tests.faulty import FAULTS, FaultyBus, PassingSubscription, failing, maker, with_subscription
from tests.loops import every_loop
from tests.mistakes import MISTAKES

PATIENCE: Final = 0.5
"""Seconds for a case that has to fail: half of it is for a sync that will not succeed."""

FOUND_BY: Final[dict[str, tuple[str, ...]]] = {
    "SyncsAtOnce": (
        "a_sync_waits_until_what_was_unmapped_is_out_of_use",
        "a_sync_that_fails_names_the_missing_and_the_old_targets",
        "a_manual_acknowledgement_is_the_only_one",
        "a_slow_subscriber_is_its_own_problem",
        "one_that_is_not_proven_stopped_is_missing",
        "device_invalidations_reach_who_asked_and_count",
        "a_moved_subscriber_counts_in_the_old_space_until_it_let_go",
        "a_moved_subscriber_counts_in_the_new_space_from_the_move",
        "caches_hear_of_a_detach",
        "events_carry_the_memory",
        "a_pin_of_a_cache_holds_back_the_acknowledgement",
    ),
    "SyncsWithNewcomers": ("a_newcomer_in_its_replay_holds_up_no_sync",),
    "ReportsNobody": ("a_sync_reports_who_counted",),
    "ReturnsNothing": (
        "an_unmap_of_nothing_is_nothing",
        "publishing_waits_for_nobody",
        "random_scripts",
    ),
    "AppliesOneByOne": (
        "apply_is_all_or_nothing",
        "random_scripts",
    ),
    "RemapsTheSameAgain": (
        "a_change_in_place_is_unmap_then_map",
        "another_memory_is_another_mapping",
    ),
    "DrainsForever": ("drain_ends_when_mailboxes_have_room",),
    "NeverCloses": (
        "closing_a_space_takes_everything_away",
        "names_are_unique_while_they_are_used",
        "closing_a_space_detaches_the_endpoints_of_other_names",
        "a_memory_in_use_stays",
    ),
    "CannotInvalidate": (
        "device_invalidations_reach_who_asked_and_count",
        "a_space_invalidates_devices_only_if_it_offers_that",
    ),
    "FencesNobody": ("a_fence_stops_a_subscriber_for_good",),
    "UnmapsNothingAtAll": (
        "the_last_byte_has_an_address",
        "an_unmap_of_nothing_is_nothing",
    ),
    "TakesEverySize": ("what_cannot_be_mapped_is_refused_with_its_values",),
    "LosesUnmaps": (
        "a_sync_waits_until_what_was_unmapped_is_out_of_use",
        "a_change_in_place_is_unmap_then_map",
        "one_that_crashes_is_its_own_problem",
        "closing_a_space_takes_everything_away",
        "random_scripts_that_split",
        "a_view_ends_with_its_mapping",
        "a_cacher_forgets_in_its_own_granule",
    ),
    "LosesWhatOverflowed": (
        "many_moves_with_little_room_end_equal",
        "a_consumer_of_powers_of_two_gets_nothing_else",
        "an_exact_consumer_is_told_mapping_by_mapping",
        "what_overflows_is_conflated_and_ends_equal",
        "a_newcomer_gets_what_is_there_and_what_comes_once",
        "random_scripts",
    ),
    "LosesAtBreak": (
        "break_loses_nothing",
        "who_left_its_block_counts_no_longer",
    ),
    "TellsTwice": (
        "a_newcomer_gets_what_is_there_and_what_comes_once",
        "a_mask_selects_the_kinds",
        "nobody_notices_a_newcomer",
        "an_unmap_that_cuts_is_refused",
    ),
    "TellsOldTargets": (
        "ranges_crop_what_is_told",
        "first_and_last_are_one_range",
        "clipping_leaves_what_is_inside",
    ),
    "IsAlwaysCurrent": (
        "wait_current_ends_when_the_replay_is_in_use",
        "a_map_that_failed_in_the_first_replay_is_the_newcomers_own",
    ),
    "FailsSilently": (
        "a_map_that_failed_is_raised_once",
        "a_map_that_failed_in_the_first_replay_is_the_newcomers_own",
        "an_unmap_that_failed_is_raised_until_it_is_applied",
    ),
    "AlwaysLeavesClean": (
        "one_that_left_unclean_is_stopped_by_its_lease",
        "one_that_is_not_proven_stopped_is_missing",
    ),
    "NeverLeaves": (
        "who_left_its_block_counts_no_longer",
        "one_that_was_given_nothing_leaves_nothing_behind",
    ),
    "LeavesUnclean": ("a_subscription_has_one_consumer_in_one_block",),
    "NeverClosed": ("one_that_is_not_proven_stopped_is_missing",),
    "AnswersForEver": (
        "a_translation_is_valid_until_its_unmap_is_handed_over",
        "an_answer_that_an_unmap_overtook_is_not_valid",
        "caches_hear_of_a_detach",
    ),
    "AnswersFromMemory": (
        "the_table_changes_before_anyone_is_told",
        "a_negative_answer_is_an_answer",
        "a_question_has_a_deadline",
        "a_subscriber_waits_for_its_endpoint",
    ),
    "SyncsEverything": ("a_sync_over_patterns_is_over_every_space_that_matches",),
    "ObservesEverything": ("observers_see_every_number",),
    "ObserverIsDeaf": ("an_observer_is_told_how_many_it_lost",),
    "ObserverTellsTwice": ("observers_see_every_number",),
    "WaitsForNothing": ("a_space_can_be_waited_for",),
    "BusNeverCloses": ("closing_a_bus_ends_every_stream",),
    "tells everybody of MAPs": (
        "a_mask_selects_the_kinds",
        "a_pull_space_publishes_unmaps_of_what_was_never_mapped",
    ),
    "ignores ranges": (
        "ranges_crop_what_is_told",
        "clipping_leaves_what_is_inside",
        "a_miss_is_answered_by_the_producer",
    ),
    "ignores first and last": (
        "first_and_last_are_one_range",
        "a_translation_is_valid_until_its_unmap_is_handed_over",
    ),
    "ignores capacities": ("a_subscription_that_cannot_be_is_refused",),
    "ignores how it is acknowledged": ("a_manual_acknowledgement_is_the_only_one",),
    "stops everybody by a lease": (
        "one_that_left_unclean_is_stopped_by_its_on_fence",
        "a_fence_stops_a_subscriber_for_good",
    ),
    "forgets on_fence": (
        "one_that_left_unclean_is_stopped_by_its_on_fence",
        "an_on_fence_that_fails_proves_nothing",
    ),
    "forgets names": ("a_sync_that_fails_names_the_missing_and_the_old_targets",),
    "stops nobody": (
        "one_that_left_unclean_is_stopped_by_its_lease",
        "one_that_crashes_is_its_own_problem",
    ),
    "splits everywhere": ("an_unmap_that_cuts_is_refused",),
    "splits nowhere": (
        "an_unmap_that_cuts_is_split",
        "random_scripts_that_split",
    ),
    "has no reserved ranges": ("what_cannot_be_mapped_is_refused_with_its_values",),
    "has no last address": (
        "what_cannot_be_mapped_is_refused_with_its_values",
        "a_subscription_that_cannot_be_is_refused",
    ),
    "tells no producer of the demand": ("the_producer_is_told_of_the_demand",),
    "offers everything": ("a_space_invalidates_devices_only_if_it_offers_that",),
    "mends names": ("names_are_unique_while_they_are_used",),
    "NeverAttaches": (
        "a_moved_subscriber_sees_the_old_go_and_the_new_come",
        "many_moves_with_little_room_end_equal",
        "a_subscriber_waits_for_its_endpoint",
        "identity_is_a_space_with_one_mapping",
    ),
    "NeverDetaches": (
        "a_moved_subscriber_sees_the_old_go_and_the_new_come",
        "caches_hear_of_a_detach",
        "a_container_sees_nothing_until_all_its_endpoints_are_there",
    ),
    "DetachesFirst": (
        "attaching_where_it_is_already_is_nothing",
        "a_contradicting_attach_moves_nobody",
    ),
    "UnmapsAtDetach": ("endpoints_of_one_space_share_its_table",),
    "RefusesPullSpaces": ("one_that_the_new_space_cannot_serve_is_fenced",),
    "StaysInClosedSpaces": (
        "closing_an_endpoint_ends_its_streams",
        "closing_a_space_detaches_the_endpoints_of_other_names",
    ),
    "EndpointNeverCloses": (
        "closing_an_endpoint_ends_its_streams",
        "spaces_and_endpoints_share_their_names",
    ),
    "KnowsOnlySpaces": ("a_subscriber_waits_for_its_endpoint",),
    "NeedsOneEndpoint": (
        "a_container_sees_nothing_until_all_its_endpoints_are_there",
        "a_contradicting_attach_moves_nobody",
    ),
    "MakesUpNames": ("spaces_and_endpoints_share_their_names",),
    "DevicesAreDeaf": (
        "caches_hear_of_a_detach",
        "device_invalidations_reach_who_asked_and_count",
    ),
    "ForgetsMemories": (
        "events_carry_the_memory",
        "another_memory_is_another_mapping",
        "what_the_producer_writes_is_what_a_consumer_reads",
    ),
    "RefusesSilently": (
        "a_map_past_the_end_of_its_memory_is_refused",
        "a_map_into_an_unknown_memory_is_refused",
    ),
    "RemovesSilently": ("a_memory_in_use_stays",),
    "ViewsByName": ("a_map_into_an_unknown_memory_is_refused",),
    "TakesEveryMemory": ("names_of_memories_are_unique_while_they_are_used",),
    "BacksWithACopy": ("what_the_producer_writes_is_what_a_consumer_reads",),
    "HandsOnACopy": ("a_descriptor_is_the_same_memory",),
    "AllowsEverything": ("what_may_only_be_read_cannot_be_written",),
    "has 48 bits": (
        "identity_is_a_space_with_one_mapping",
        "the_last_byte_has_an_address",
    ),
    "asks twice": ("equal_questions_are_asked_once",),
    "joins old questions": ("nobody_joins_a_question_of_before_a_removal",),
    "excuses its producer": ("a_wrong_answer_is_the_producers_fault",),
    "waits for any answer": ("a_question_has_a_deadline",),
    "ignores granules": (
        "a_contract_that_cannot_be_is_refused",
        "a_cacher_forgets_in_its_own_granule",
        "one_that_the_new_space_cannot_serve_is_fenced",
    ),
    "ignores that powers of two are wanted": ("a_consumer_of_powers_of_two_gets_nothing_else",),
    "ignores that exact ranges are wanted": (
        "a_contract_that_cannot_be_is_refused",
        "an_exact_consumer_is_told_mapping_by_mapping",
    ),
    "ignores limits": (
        "a_contract_that_cannot_be_is_refused",
        "a_full_consumer_fails_alone",
        "a_newcomer_that_is_full_hears_of_it_itself",
    ),
    "PinsNothing": (
        "a_pin_of_a_cache_holds_back_the_acknowledgement",
        "a_pin_of_a_copy_holds_back_the_acknowledgement",
        "one_that_is_fenced_with_a_pin_is_missing_until_it_is_released",
        "what_is_left_of_a_view_holds_back_the_acknowledgement",
    ),
    "PinsEverything": ("what_came_after_the_removal_is_pinned_freely",),
}
"""Mistakes, and cases that must find them."""

ALL: Final = FAULTS | MISTAKES
"""Buses with one mistake each, by what it is."""


@every_loop
async def test_the_embedded_bus_is_a_bus() -> None:
    """All laws that can be seen through the abstract classes hold, on every loop."""
    report = await check_bus(Bus)

    assert report.role == "bus"
    assert report.cases == tuple(case.name for case in bus_cases(Bus))


@every_loop
async def test_a_wrapper_of_a_bus_is_a_bus() -> None:
    """The suite knows nothing of what the bus is made of."""
    await check_bus(maker(FaultyBus))
    await check_bus(with_subscription(PassingSubscription))


def test_every_mistake_is_looked_for() -> None:
    assert FOUND_BY.keys() == ALL.keys()
    assert FAULTS.keys().isdisjoint(MISTAKES)


def test_every_case_finds_a_mistake() -> None:
    """A case that no mistake makes fail would prove nothing."""
    assert {name for names in FOUND_BY.values() for name in names} == {case.name for case in bus_cases(Bus)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of one that is never left
@pytest.mark.parametrize("mistake", FOUND_BY)
def test_a_mistake_is_found(mistake: str) -> None:
    wanted = set(FOUND_BY[mistake])
    cases = [case for case in bus_cases(ALL[mistake], patience=PATIENCE) if case.name in wanted]

    assert anyio.run(failing, cases) == wanted


def test_a_failed_bus_is_reported_with_every_case() -> None:
    with pytest.raises(ConformanceFailed, match=f"1 of {len(bus_cases(Bus))} cases for a bus failed") as caught:
        anyio.run(lambda: check_bus(FAULTS["DrainsForever"], patience=PATIENCE))

    (failed,) = caught.value.exceptions
    assert isinstance(failed, CaseFailed)
    assert failed.case == "drain_ends_when_mailboxes_have_room"
    assert failed.law == "Law 2: drain waits until every mailbox is at most half full."
    assert failed.reason == "it did not end within 0.5 s"


def test_every_case_names_its_law() -> None:
    for case in bus_cases(Bus):
        assert case.law.startswith(("Law", "Contract"))
        assert case.law.endswith(".")
