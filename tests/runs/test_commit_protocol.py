"""The commit protocol in its short form, and that it notices a broken one."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.commit_protocol import run
from rl.runs.checkpoints import Checkpoints
from rl.runs.manifest import DamagedError


def test_no_order_of_steps_breaks_an_invariant() -> None:
    counted = run(600)
    assert {"save", "save, killed", "resume, killed", "fork", "evaluate"} <= counted.keys()
    assert any(name.startswith("damage") for name in counted)


def prune_all_but_the_newest(self: Checkpoints) -> None:
    """Delete the checkpoint before the newest, which a damaged one falls back to."""
    self.keep = 1
    _prune(self)


def prune_before_the_commit(self: Checkpoints, *arguments: Any, **options: Any) -> None:
    """Delete the last checkpoint, then write the next."""
    for path in self.folder.glob("ckpt-[0-9]*"):
        path.unlink()
    _save(self, *arguments, **options)


def leave_the_newer(self: Checkpoints) -> None:
    """On a resume, leave what is newer than the checkpoint where it is."""


def keep_the_first_best(self: Checkpoints, state: dict[str, Any], frames: int, score: float) -> None:
    """Never replace the best weights."""
    if self.best is None:
        _save_best(self, state, frames, score)


_prune, _save, _save_best = Checkpoints.prune, Checkpoints.save, Checkpoints.save_best


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("prune", prune_all_but_the_newest),
        ("save", prune_before_the_commit),
        ("_set_aside", leave_the_newer),
        ("save_best", keep_the_first_best),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_protocol_is_noticed(name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, name, broken)
    with pytest.raises((AssertionError, OSError, DamagedError)):
        run(1000)
