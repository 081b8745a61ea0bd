from __future__ import annotations

import math
from fractions import Fraction

import pytest

from rl.config.schedule import Schedule


def test_a_number_is_constant() -> None:
    assert [Schedule(2e-3)(frames) for frames in (0, 1, 10**12)] == [2e-3] * 3


def test_knots_are_joined_by_straight_lines_and_constant_outside() -> None:
    schedule = Schedule([[10, 1.0], [20, 3.0], [40, 2.0]])
    assert [schedule(f) for f in (0, 10, 15, 20, 30, 40, 100)] == [1.0, 1.0, 2.0, 3.0, 2.5, 2.0, 2.0]


def test_two_knots_at_one_frame_make_a_jump() -> None:
    schedule = Schedule([[0, 1.0], [10, 1.0], [10, 5.0], [20, 0.0]])
    assert [schedule(f) for f in (9, 10, 15)] == [1.0, 5.0, 2.5]


def test_equal_schedules_give_equal_bits_however_written() -> None:
    plain = Schedule([[0, 2.5e-4], [1_000_000, 0]])
    split = Schedule([["0", "2.5e-4"], ["500k", 1.25e-4], ["1M", 0.0]])
    linear = Schedule({"kind": "linear", "from": 2.5e-4, "to": 0, "frames": "1M"})
    for frames in range(0, 1_000_000, 997):
        assert plain(frames) == split(frames) == linear(frames)
        assert plain(frames) == float(Fraction("2.5e-4") * (1_000_000 - frames) / 1_000_000)


def test_a_future_knot_leaves_the_past_unchanged() -> None:
    old, new = Schedule(1e-3), Schedule([[0, 1e-3], [1000, 1e-3], [2000, 0]])
    assert old.first_difference(new, 1000) is None
    assert old.first_difference(new, 1001) == 1001


@pytest.mark.parametrize(
    ("one", "other", "until", "where"),
    [
        (1e-3, 2e-3, 100, 0),
        (1e-3, 2e-3, 0, 0),
        ([[0, 1.0], [100, 0.0]], [[0, 1.0], [50, 0.5], [100, 0.0]], 1000, None),
        ([[0, 1.0], [100, 0.0]], [[0, 1.0], [50, 0.5], [100, 0.1]], 1000, 51),
        ([[0, 1.0], [100, 0.0]], [[0, 1.0], [200, 0.0]], 1000, 1),
        ([[0, 1.0], [10, 1.0], [10, 2.0]], 1.0, 9, None),
        ([[0, 1.0], [10, 1.0], [10, 2.0]], 1.0, 10, 10),
        ([[0, 0.0], [10, 0.0], [20, 1.0], [30, 0.0]], 0.0, 30, 11),
        ({"kind": "linear", "from": 1, "to": 0, "frames": 100}, [[0, 1], [100, 0]], 500, None),
        (
            {"kind": "cosine", "from": 1, "to": 0, "frames": 100},
            {"kind": "cosine", "from": 1.0, "to": 0.0, "frames": "100"},
            500,
            None,
        ),
        (
            {"kind": "cosine", "from": 1, "to": 0, "frames": 100},
            {"kind": "cosine", "from": 1, "to": 0, "frames": 200},
            500,
            1,
        ),
        (
            {"kind": "cosine", "from": 1, "to": 0, "frames": 100},
            {"kind": "cosine", "from": 1, "to": 0, "frames": 200},
            0,
            None,
        ),
        ({"kind": "cosine", "from": 1, "to": 0, "frames": 100}, [[0, 1], [100, 0]], 500, 1),
        (
            {"kind": "exponential", "from": 1, "to": 0.1, "frames": 100},
            {"kind": "cosine", "from": 1, "to": 0.1, "frames": 100},
            500,
            1,
        ),
    ],
)
def test_the_first_difference_is_found(one: object, other: object, until: int, where: int | None) -> None:
    assert Schedule(one).first_difference(Schedule(other), until) == where
    assert Schedule(other).first_difference(Schedule(one), until) == where


def test_first_difference_agrees_with_checking_every_frame() -> None:
    written = [
        0.5,
        [[0, 0.5], [30, 0.5], [40, 1]],
        [[5, 0.5], [5, 1.0], [9, 0.5]],
        [[0, 0.5], [7, 0.6], [14, 0.5]],
        [[50, 0.5], [60, 0]],
    ]
    for one in map(Schedule, written):
        for other in map(Schedule, written):
            for until in (0, 4, 5, 8, 31, 60, 99):
                expected = next((f for f in range(until + 1) if one.exact(f) != other.exact(f)), None)
                assert one.first_difference(other, until) == expected


def test_cosine_by_hand_numbers() -> None:
    schedule = Schedule({"kind": "cosine", "from": 3.0, "to": 1.0, "frames": 100})
    assert [schedule(f) for f in (0, 100, 1000)] == [3.0, 1.0, 1.0]
    assert schedule(50) == pytest.approx(2.0)
    assert schedule(25) == pytest.approx(2.0 + math.sqrt(0.5))


def test_exponential_by_hand_numbers() -> None:
    schedule = Schedule({"kind": "exponential", "from": 1.0, "to": 0.01, "frames": "1k"})
    assert [schedule(f) for f in (0, 1000, 5000)] == [1.0, 0.01, 0.01]
    assert schedule(500) == pytest.approx(0.1)


def test_the_lowest_and_the_highest_value_are_known() -> None:
    schedule = Schedule([[0, 0.5], [10, -1], [20, 2]])
    assert (schedule.lowest, schedule.highest) == (-1.0, 2.0)


@pytest.mark.parametrize(
    "value",
    [
        *[
            None,
            True,
            "fast",
            [],
            [[0]],
            [[0, 1, 2]],
            [0, 1],
            [[0, "x"]],
            [["0.5", 1]],
            [[10, 1], [0, 2]],
            [[-1, 1]],
        ],
        *[
            {},
            {"kind": "cosine"},
            {"kind": "square", "from": 1, "to": 0, "frames": 1},
            {"kind": "linear", "from": 1, "to": 0, "frames": 0},
        ],
        {"kind": "exponential", "from": 1, "to": 0, "frames": 10},
        {"kind": "linear", "from": 1, "to": 0, "frames": 10, "power": 2},
        *[float("nan"), float("inf"), "1/0", "1e999"],
    ],
)
def test_what_is_no_schedule_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected|exponential"):
        Schedule(value)


def test_big_clocks_lose_no_frame() -> None:
    schedule = Schedule([[0, 0], [2**55, 1]])
    assert schedule.exact(2**54 + 1) != schedule.exact(2**54)
    assert Schedule([[2**53, 0], [2**53 + 2, 1]])(2**53 + 1) == 0.5
