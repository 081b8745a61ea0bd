"""A process that dies at any moment at all: before each call that changes the run's folder, and half way in each write."""

from __future__ import annotations

import functools
import itertools
import shutil
from pathlib import Path

import pytest
from faults import DIED, die_at
from runs import TINY, differences, go, in_child, record

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")
# 7 iterations; checkpoints at 64, 128, 192 and 224, evaluations at 96 and 192
LINE = [*TINY, "frames=224", "algo.rollout_length=16", "log_every=32", "ckpt.every=64", "eval.every=96", "eval.episodes=1"]


def killed(folder: Path, number: int, *overrides: str) -> int:
    die_at(number)
    return go(folder, *LINE, *overrides)


@pytest.mark.parametrize("further", [0, 2], ids=["once", "three times"])
def test_a_run_killed_at_any_moment_ends_as_if_it_never_was(further: int, tmp_path: Path) -> None:
    assert go(tmp_path / "straight", *LINE) == 0
    expected = record(tmp_path / "straight")
    step = 1 if further == 0 else 5
    for number in itertools.count(0, step):
        folder = tmp_path / str(number)
        code = in_child(functools.partial(killed, folder, number))
        if code == 0:
            break
        assert code == DIED
        for again in range(further):
            assert in_child(functools.partial(killed, folder, (number * (7 + again)) % 60)) in (DIED, 0)
        assert in_child(functools.partial(go, folder, *LINE)) == 0
        assert (number, differences(expected, record(folder))) == (number, [])
        shutil.rmtree(folder)
    assert number > 100


def test_a_run_killed_while_being_extended_ends_as_if_it_never_was(tmp_path: Path) -> None:
    longer = "frames=288"
    assert go(tmp_path / "straight", *LINE, longer) == 0
    assert go(tmp_path / "half", *LINE) == 0
    expected = record(tmp_path / "straight")
    for number in itertools.count():
        folder = shutil.copytree(tmp_path / "half", tmp_path / str(number), symlinks=True)
        code = in_child(functools.partial(killed, folder, number, longer))
        if code == 0:
            break
        assert code == DIED
        assert in_child(functools.partial(go, folder, *LINE, longer)) == 0
        assert (number, differences(expected, record(folder))) == (number, [])
        shutil.rmtree(folder)
    assert number > 30


def test_temporaries_that_a_kill_left_go_with_the_next_checkpoint(tmp_path: Path) -> None:
    for number in itertools.count(30):
        folder = tmp_path / str(number)
        assert in_child(functools.partial(killed, folder, number)) == DIED
        if (folder / "ckpt" / ".ckpt-64.json.tmp").exists():
            break
    assert in_child(functools.partial(go, folder, *LINE, "ckpt.every=96")) == 0
    assert [name for name in record(folder)["checkpoints"] if name.startswith(".")] == []
