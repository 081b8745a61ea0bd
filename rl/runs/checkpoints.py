"""Checkpoints on disk: written so that a kill at any moment leaves a whole one, read so that damage is found.

A checkpoint is a data file `ckpt-<frames>.pt` and a manifest `ckpt-<frames>.json`, which is renamed into
place last: that commits it. The manifest names every file that the checkpoint needs, with its hash. Nothing
committed is ever overwritten, and a file is deleted only after a commit whose kept manifests no longer name
it.

Reading manifests does not import torch, so that finding a run stays fast.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.runs import files
from rl.runs.manifest import (
    _OURS,
    REPLAY,
    SET_ASIDE,
    Best,
    DamagedError,
    Manifest,
    describe,
    list_manifests,
)
from rl.serialize import load, serialize

if TYPE_CHECKING:
    from rl.learning.replay import UniformReplay


log = logging.getLogger(__name__)
LINK = "ckpt-best"


class Checkpoints:
    """The checkpoints of one run, while it trains."""

    def __init__(self, run: Path, keep: int) -> None:
        self.run, self.folder, self.replay, self.keep = run, run / "ckpt", run / REPLAY, keep
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kept: list[Manifest] = []  # newest first
        self.best: Best | None = None  # as of now, maybe not committed yet
        self._best_description: dict[str, Any] = {}
        self._tables: dict[str, tuple[Any, int]] = {}  # of each CSV file: its hash so far, of how many bytes

    def resume_from(self, manifest: Manifest) -> None:
        """Continue after this checkpoint: what is newer or damaged is moved away, and deleted after the next
        commit.
        """
        whole, _ = list_manifests(self.folder)
        self.kept = [manifest, *(m for m in whole if m.frames < manifest.frames)]
        self.best = manifest.best
        if self.best:
            self._best_description = manifest.files[self.best.file]
        self._set_aside()
        self._link_best()

    def start_over(self) -> None:
        """Move away what an earlier start left before it committed anything."""
        self._set_aside()

    def _set_aside(self) -> None:
        aside = self.folder / SET_ASIDE
        for path in self._unreferenced():
            aside.mkdir(exist_ok=True)
            os.replace(path, aside / path.name)
        files.sync_folder(self.folder)

    def _unreferenced(self) -> list[Path]:
        """Checkpoint files and chunks that no kept manifest needs."""
        needed = {name for m in self.kept for name in (*m.files, *m.replay, f"ckpt-{m.frames}.json")}
        there = [(folder, name) for folder in (self.folder, self.replay) for name in files.listdir(folder)]
        return sorted(folder / name for folder, name in there if _OURS.fullmatch(name) and name not in needed)

    @property
    def saved_frames(self) -> int | None:
        """The frames of the newest checkpoint."""
        return self.kept[0].frames if self.kept else None

    def save_best(self, state: dict[str, Any], frames: int, score: float) -> None:
        """Write the weights of the best evaluation so far; the next `save` commits them."""
        data = serialize(state)
        name = f"ckpt-best-{frames}.pt"
        files.write_new(self.folder / name, data)
        if self.best and not any(self.best.file in m.files for m in self.kept):
            os.unlink(self.folder / self.best.file)  # was never committed, and is no longer the best
        self.best, self._best_description = Best(name, frames, score), describe(data)

    def save(
        self,
        state: dict[str, Any],
        *,
        frames: int,
        wall_s: float,
        config: dict[str, Any] | str,
        tables: list[Path],
        memory: UniformReplay | None = None,
    ) -> None:
        """Commit a checkpoint, then delete what is no longer needed. OSError if the disk refuses; the last
        one stands.
        """
        rows = {table.name: self._describe_table(table) for table in tables}
        offsets = {name: described["size"] for name, described in rows.items()}
        for table in tables:  # what the last manifest counts on is safe already
            if not self.kept or offsets[table.name] != self.kept[0].offsets.get(table.name):
                files.sync(table)
        chunks = {} if memory is None else self._write_chunk(memory, frames)
        data = serialize(state)
        name = f"ckpt-{frames}.pt"
        files.write_new(self.folder / name, data)
        described = {name: describe(data)}
        if self.best:
            described[self.best.file] = self._best_description
        manifest = Manifest(
            frames=frames,
            saved_at=max(time.time(), self.kept[0].saved_at if self.kept else 0.0),
            wall_s=wall_s,
            data=name,
            files=described,
            offsets=offsets,
            best=self.best,
            replay=chunks,
            hashes={name: described["sha256"] for name, described in rows.items()},
            config=config,
        )
        files.write_atomic(self.folder / f"ckpt-{frames}.json", manifest.to_bytes())
        self.kept = [manifest, *self.kept]
        self.prune()

    def _describe_table(self, path: Path) -> dict[str, Any]:
        """Size and hash of a CSV file; after the first time only its new rows are read."""
        digest, size = self._tables.get(path.name) or (hashlib.sha256(), 0)
        with path.open("rb") as file:
            file.seek(size)
            new = file.read()
        digest.update(new)
        self._tables[path.name] = digest, size + len(new)
        return {"size": size + len(new), "sha256": digest.hexdigest()}

    def _write_chunk(self, memory: UniformReplay, frames: int) -> dict[str, Any]:
        """Write what is new in a replay memory since the last checkpoint; all chunks that it needs."""
        before = self.kept[0].replay if self.kept else {}
        chunks = {
            name: description for name, description in before.items() if description["end"] > memory.oldest
        }
        chunk = memory.take_chunk()
        if chunk is None:
            return chunks
        if not self.replay.exists():
            self.replay.mkdir()
            files.sync_folder(self.run)
        name = f"chunk-{frames}.bin"
        files.write_new(self.replay / name, *chunk.buffers)
        files.sync_folder(self.replay)
        return {**chunks, name: {**describe(*chunk.buffers), "end": chunk.end}}

    def prune(self) -> None:
        """Delete all that the newest `keep` checkpoints do not need. After a commit alone; a run that ends
        looks again for what a kill in here left.
        """
        self.kept = self.kept[: self.keep]
        self._link_best()
        for path in self._unreferenced():  # a manifest's name sorts before its data file's
            os.unlink(path)
        for temporary in self.folder.glob(".ckpt-*.tmp"):
            os.unlink(temporary)
        if (self.folder / SET_ASIDE).exists():
            shutil.rmtree(self.folder / SET_ASIDE)

    def _link_best(self) -> None:
        link = self.folder / LINK
        committed = self.kept[0].best if self.kept else None
        if committed and (not link.is_symlink() or os.readlink(link) != committed.file):
            files.point_link(link, committed.file)
        elif not committed and link.is_symlink():
            os.unlink(link)

    def load_best(self, device: str) -> dict[str, Any] | None:
        """The state of the best weights, or None. DamagedError if its file is not as it was written."""
        if self.best is None:
            return None
        data = (self.folder / self.best.file).read_bytes()
        if describe(data) != self._best_description:
            raise DamagedError(f"{self.best.file}: its content is not what was written")
        return load(data, device)
