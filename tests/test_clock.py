from __future__ import annotations

import pytest

from rl.clock import Clock


@pytest.mark.parametrize("chunk", [1, 3, 64, 1000, 2500])
def test_every_multiple_is_due_once_when_frames_come_in_chunks(chunk: int) -> None:
    clock, due = Clock(), 0
    while clock.frames < 10_000:
        clock.tick(chunk, 0)
        assert clock.due(1000) == (clock.frames // 1000 > (clock.frames - chunk) // 1000)
        due += clock.due(1000)
    assert due == {1: 10, 3: 10, 64: 10, 1000: 10, 2500: 4}[chunk]


@pytest.mark.parametrize("start", [0, 2**24 - 1, 2**31, 2**53 + 1, 2**62])
def test_big_clocks_count_every_frame(start: int) -> None:
    clock = Clock()
    clock.load_state_dict({"frames": start, "episodes": 0, "updates": 0})
    clock.tick(1, 0)
    assert clock.frames == start + 1
    assert clock.due(1)
    assert clock.due(start + 1)
    assert not clock.due(start + 2)


def test_null_is_never_due() -> None:
    clock = Clock()
    clock.tick(10**6, 0)
    assert not clock.due(None)


def test_nothing_is_due_before_the_first_tick_nor_after_a_load() -> None:
    clock, other = Clock(), Clock()
    assert not clock.due(1)
    clock.tick(1000, 3)
    other.load_state_dict(clock.state_dict())
    assert not other.due(1000)
    assert other.state_dict() == {"frames": 1000, "episodes": 3, "updates": 0}


def test_wall_seconds_are_no_part_of_the_state() -> None:
    clock = Clock()
    clock.wall_before_s = 100.0
    assert clock.wall_s >= 100.0
    assert set(clock.state_dict()) == {"frames", "episodes", "updates"}
