"""Targets are judged by ratios inside a repetition."""

from bench.daemon.notes import Notes
from bench.daemon.targets import FLOOR, OWN, PINNED_P50, rows, speed, time


def noted(*values: tuple[str, list[float]], key_of_time: bool = False) -> Notes:
    notes = Notes()
    key = time(PINNED_P50, 1) if key_of_time else speed(1, 1)
    for subject, each in values:
        for repetition, value in enumerate(each):
            notes.repetition = repetition
            notes.note(key._replace(subject=subject), value)
    return notes


def test_the_ratio_is_taken_inside_each_repetition() -> None:
    notes = noted((OWN, [40, 400, 41]), (FLOOR, [100, 1000, 82]))

    must, stretch = rows(notes, [])

    assert (must.ratio, must.met) == (0.4, True)
    assert (stretch.ratio, stretch.met) == (0.4, False)
    assert must.value == 41


def test_less_is_better_of_times() -> None:
    notes = noted((OWN, [18]), (FLOOR, [10]), key_of_time=True)

    assert [row.met for row in rows(notes, [])] == [True, False]


def test_the_best_peer_is_the_one_to_be_ahead_of() -> None:
    notes = noted((OWN, [50]), ("slow", [20]), ("fast", [60]), ("absent", []))

    (row,) = rows(notes, ["slow", "fast", "absent"])

    assert (row.reference, row.met) == ("fast", False)


def test_times_are_compared_the_other_way_round() -> None:
    notes = noted((OWN, [50]), ("slow", [70]), ("fast", [60]), key_of_time=True)

    (row,) = rows(notes, ["slow", "fast"])

    assert (row.reference, row.met) == ("fast", True)
