"""What all processes but the first have in place of a run's tables and checkpoints: nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.runs.manifest import REPLAY, Manifest

if TYPE_CHECKING:
    from rl.learning.replay import UniformReplay


class NoTable:
    """In place of a `Table`."""

    def start(self) -> None:
        """Nothing."""

    def append(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def last_rows(self, number: int) -> list[dict[str, str]]:
        """None."""
        return []


class NoCheckpoints:
    """In place of `Checkpoints`: it reads them, and knows the frames of the newest, as all processes must."""

    best = None
    saved_frames: int | None = None

    def __init__(self, run: Path) -> None:
        self.folder, self.replay = run / "ckpt", run / REPLAY

    def start_over(self) -> None:
        """There is none."""

    def resume_from(self, manifest: Manifest) -> None:
        """This is the newest."""
        self.saved_frames = manifest.frames

    def save(self, state: Any, *, frames: int, memory: UniformReplay | None = None, **_: Any) -> None:
        """The first process writes it; a replay memory must know that."""
        if memory is not None:
            memory.take_chunk()
        self.saved_frames = frames

    def save_best(self, state: Any, frames: int, score: float) -> None:
        """Nothing."""

    def load_best(self, device: str) -> None:
        """None."""

    def prune(self) -> None:
        """Nothing."""
