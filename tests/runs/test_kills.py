"""A process that dies at any moment at all: before each call that changes the run's folder, and half way in
each write.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from faults import DIED, die_at, keep_moments
from short_runs import TINY, differences, go, in_child, record

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")
# 5 iterations; checkpoints at 64, 128 and 160, evaluations at 96 and, if it is extended, at 192
LINE = [
    *TINY,
    "frames=160",
    "algo.rollout_length=16",
    "log_every=32",
    "ckpt.every=64",
    "eval.every=96",
    "eval.episodes=1",
]


# the same with a memory of which the checkpoints at 64, 128, 160, 192 and 224 keep chunks, and which is full
# after 100 frames
MEMORY = ["algo=ddqn_per", "algo.replay.capacity=100", "algo.learning_starts=40", "algo.batch_size=8"]


def killed(folder: Path, number: int, *overrides: str) -> int:
    die_at(number)
    return go(folder, *overrides)


def watched(folder: Path, moments: Path, *overrides: str) -> int:
    keep_moments(folder, moments)
    return go(folder, *overrides)


def all_moments(folder: Path, *overrides: str) -> list[Path]:
    """The run's folder as each possible kill would leave it."""
    moments = folder.with_name("moments")
    assert in_child(functools.partial(watched, folder, moments, *overrides)) == 0
    return sorted(moments.iterdir(), key=lambda path: int(path.name))


@pytest.mark.parametrize(
    ("already", "algo"),
    [("frames=0", []), ("frames=160", []), ("frames=160", MEMORY)],
    ids=["new", "extended", "extended, with a memory"],
)
def test_a_run_killed_at_any_moment_ends_equal(already: str, algo: list[str], tmp_path: Path) -> None:
    line = [*LINE, *algo, *([] if already == "frames=0" else ["frames=224"])]
    assert go(tmp_path / "straight", *line) == 0
    expected = record(tmp_path / "straight")
    if already != "frames=0":
        assert go(tmp_path / "run", *LINE, *algo) == 0
    moments = all_moments(tmp_path / "run", *line)
    assert len(moments) > 25
    for folder in moments:
        assert (folder.name, in_child(functools.partial(go, folder, *line))) == (folder.name, 0)
        assert (folder.name, differences(expected, record(folder))) == (folder.name, [])


def test_a_run_killed_repeatedly_ends_equal(tmp_path: Path) -> None:
    assert go(tmp_path / "straight", *LINE) == 0
    expected = record(tmp_path / "straight")
    for number in range(3, 90, 14):
        folder = tmp_path / str(number)
        assert in_child(functools.partial(killed, folder, number, *LINE)) == DIED
        for again in (7, 8, 9):
            assert in_child(functools.partial(killed, folder, number * again % 60, *LINE)) in (DIED, 0)
        assert in_child(functools.partial(go, folder, *LINE)) == 0
        assert (number, differences(expected, record(folder))) == (number, [])


def test_temporaries_of_a_kill_go_with_the_next_checkpoint(tmp_path: Path) -> None:
    for folder in all_moments(tmp_path / "run", *LINE):
        if (folder / "ckpt" / ".ckpt-64.json.tmp").exists():
            break
    assert in_child(functools.partial(go, folder, *LINE, "ckpt.every=96")) == 0
    assert [name for name in record(folder)["checkpoints"] if name.startswith(".")] == []
