"""The last observations of episodes."""

from __future__ import annotations

import numpy as np

from rl.learning.ends import Ends


def found(ends: Ends, *numbers: int) -> tuple[list[bool], list[float]]:
    there, obs = ends.find(np.array(numbers))
    return there.tolist(), obs[:, 0].tolist()


def ends_of(*numbers: int) -> Ends:
    ends = Ends((1,), np.float32)
    for number in numbers:
        ends.append(number, np.full(1, number, np.float32))
    return ends


def test_only_those_that_are_there_are_found() -> None:
    ends = ends_of(3, 5, 40)
    assert found(ends, 5, 4, 40, 41, 3, 5) == ([True, False, True, False, True, True], [5, 40, 3, 5])
    ends.forget_before(5)
    assert found(ends, 3, 5) == ([False, True], [5])


def test_nothing_is_found_in_memory_that_holds_nothing_yet_or_no_longer() -> None:
    assert found(ends_of(), 0) == ([False], [])
    ends = ends_of(3, 5)
    ends.replace_from(5, {})
    assert found(ends, 3, 5) == ([True, False], [3])
