"""The commit protocol as a state machine: `python -m benchmarks.commit_protocol [steps=10_000] [seed=0]`.

Steps are drawn by hypothesis: train, evaluate, save, be killed at any call to the operating system, have a
file damaged, resume, extend, fork, in any order. What a run would be without any of it is known at each
frame, and after each step the folder is held against it:

- a whole checkpoint always exists once there was one, and is the newest that was committed and not damaged;
- no committed file is changed or overwritten while a kept manifest names it;
- its state and its rows are those of its frame;
- the best weights are those of the best row of eval.csv, ties to the later;
- after an undisturbed commit nothing lies around that no manifest names.
"""

from __future__ import annotations

import contextlib
import csv
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from hypothesis import HealthCheck, Phase, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from benchmarks.record import record
from rl.runs import checkpoints, files
from rl.runs.checkpoints import Checkpoints
from rl.runs.manifest import Manifest, newest_manifest, was_committed
from rl.runs.weights import read_weights
from rl.serialize import load

KEEP, FRAMES = 2, 64  # checkpoints to keep; frames of an iteration
# where a kill can come: before or after any of these calls
_CALLS = ("open", "write", "fsync", "replace", "unlink", "symlink", "ftruncate", "mkdir")


class Killed(BaseException):
    """The process is gone: no handler of OSError or Exception runs."""


class _System:
    """The module `os` as files and checkpoints see it: the nth call kills, half of a write done."""

    def __init__(self, os: Any) -> None:
        self._os = os
        self.calls_left: int | None = None

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._os, name)
        if name not in _CALLS:
            return call

        def counted(*arguments: Any, **options: Any) -> Any:
            if self.calls_left is None:
                return call(*arguments, **options)
            self.calls_left -= 1
            if self.calls_left < 0:
                if name == "write":
                    call(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])
                raise Killed
            return call(*arguments, **options)

        return counted


@contextlib.contextmanager
def _kill_at(call: int | None) -> Iterator[None]:
    """Within it the nth call to the operating system kills; None: none does."""
    real = files.os
    system: Any = _System(real)
    system.calls_left = call
    files.os = checkpoints.os = system  # type: ignore[attr-defined]
    try:
        yield
    finally:
        files.os = checkpoints.os = real  # type: ignore[attr-defined]


def _state(frames: int) -> dict[str, Any]:
    """What the run knows at a frame."""
    return {"agent.weights": {"w": torch.arange(frames, frames + 8)}, "clock": {"frames": frames}}


def _row(frames: int) -> bytes:
    return f"{frames},{frames / 3!r}\n".encode()


kill_points = st.one_of(st.none(), st.integers(0, 30))


class CommitProtocol(RuleBasedStateMachine):
    """A run's folder, and what it should hold."""

    steps: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="commit-"))
        self.scores: dict[int, float] = {}  # of the evaluations of the run as it is, by frame
        self.committed: list[int] = []  # the frames of the checkpoints that must be whole, oldest first
        self.maybe: int | None = None  # the frames of a commit that a kill cut short: either way is right
        self.hashes: dict[Path, bytes] = {}  # committed file -> its bytes
        self.session: Checkpoints | None = None
        self.frames = 0
        self.tidy = False  # whether the last thing was a commit that nothing disturbed

    def teardown(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    @property
    def tables(self) -> list[Path]:
        """The run's CSV files."""
        return [self.folder / "metrics.csv", self.folder / "eval.csv"]

    @initialize()
    def start(self) -> None:
        """A new run, committed at frame 0."""
        self.session = Checkpoints(self.folder, KEEP)
        self.session.start_over()
        self.tables[0].write_bytes(b"frames,value\n")
        self.tables[1].write_bytes(b"frames,score\n")
        self._save(None)

    @precondition(lambda self: self.session is not None)
    @rule(iterations=st.integers(1, 3))
    def train(self, iterations: int) -> None:
        """Some iterations, each with its row."""
        self._count("train")
        for _ in range(iterations):
            self.frames += FRAMES
            files.append(self.tables[0], _row(self.frames))
        self.tidy = False

    @precondition(lambda self: self.session is not None and self.frames not in self.scores)
    @rule(score=st.sampled_from([1.0, 2.0, 3.0]), call=kill_points)
    def evaluate(self, score: float, call: int | None) -> None:
        """An evaluation with its row; the best so far is written, not yet committed."""
        self._count("evaluate")
        assert self.session is not None
        self.tidy = False
        with self._maybe_killed(call):
            files.append(self.tables[1], f"{self.frames},{score!r}\n".encode())
            self.scores[self.frames] = score
            best = self.session.best
            if best is None or score >= best.score:
                self.session.save_best(_state(self.frames), self.frames, score)

    @precondition(lambda self: self.session is not None and self.session.saved_frames != self.frames)
    @rule(call=kill_points)
    def save(self, call: int | None) -> None:
        """Commit a checkpoint, or be killed on the way."""
        self._count("save" if call is None else "save, killed")
        self._save(call)

    def _save(self, call: int | None) -> None:
        assert self.session is not None
        self.maybe, self.tidy = self.frames, False
        with self._maybe_killed(call):
            self.session.save(
                _state(self.frames), frames=self.frames, wall_s=0.0, config={}, tables=self.tables
            )
            self.tidy = True
        self._settle()

    @precondition(lambda self: self.session is not None)
    @rule(partial=st.binary(max_size=5))
    def kill(self, partial: bytes) -> None:
        """The process is killed between two calls, maybe with half a row written."""
        self._count("kill")
        files.append(self.tables[0], partial)
        self.session = None
        self.tidy = False

    @precondition(lambda self: len(self.committed) == KEEP)
    @rule(how=st.sampled_from(["flip", "cut", "delete"]), which=st.integers(0, 3))
    def damage(self, how: str, which: int) -> None:
        """Damage a file that only the newest checkpoint needs."""
        self._count(f"damage: {how}")
        newest, before = (self._manifest(frames) for frames in self.committed[::-1])
        own = sorted({*newest.files, f"ckpt-{newest.frames}.json"} - {*before.files})
        path = self.folder / "ckpt" / own[which % len(own)]
        data = path.read_bytes()
        if how == "delete":
            path.unlink()
        else:
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if how == "flip" else data[: len(data) // 2])
        self.hashes.pop(path, None)
        self.committed.pop()
        self.session = None  # a session does not read what it wrote
        self.tidy = False

    @precondition(lambda self: self.session is None)
    @rule(call=kill_points)
    def resume(self, call: int | None) -> None:
        """Go on from the newest whole checkpoint, or be killed while doing so."""
        self._count("resume" if call is None else "resume, killed")
        manifest = self._newest()
        self.tidy = False
        with self._maybe_killed(call):
            session = Checkpoints(self.folder, KEEP)
            state = load((self.folder / "ckpt" / manifest.data).read_bytes(), "cpu")
            session.resume_from(manifest)
            for name, size in manifest.offsets.items():
                files.cut(self.folder / name, size)
            self.session, self.frames = session, int(state["clock"]["frames"])
            self.scores = {frames: score for frames, score in self.scores.items() if frames <= self.frames}
            self.hashes = {path: data for path, data in self.hashes.items() if path.exists()}
            rows = self.tables[0].read_bytes().splitlines(keepends=True)[1:]
            assert rows == [_row(frames) for frames in range(FRAMES, self.frames + 1, FRAMES)]
        self._settle()

    @rule(which=st.sampled_from(["best", "last"]))
    def fork(self, which: str) -> None:
        """The weights that a fork or enjoy.py would take."""
        self._count("fork")
        manifest = self._newest()
        assume(which == "last" or manifest.best is not None)
        weights = read_weights(self.folder, which)
        state = load(weights.data, "cpu")
        assert state["clock"]["frames"] == weights.frames
        assert weights.frames == (manifest.frames if which == "last" else self._best_of(manifest.frames))

    @invariant()
    def check(self) -> None:
        """What must hold after every step."""
        if not self.committed:
            return
        manifest = self._newest()
        allowed = {self.committed[-1], self.maybe} if self.maybe is not None else {self.committed[-1]}
        assert manifest.frames in allowed, f"newest is {manifest.frames}, not one of {allowed}"
        state = load((self.folder / "ckpt" / manifest.data).read_bytes(), "cpu")
        assert torch.equal(state["agent.weights"]["w"], _state(manifest.frames)["agent.weights"]["w"])
        assert (manifest.best and manifest.best.frames) == self._best_of(manifest.frames)
        assert was_committed(self.folder)
        kept = [self._manifest(frames) for frames in self.committed]
        for path in {self.folder / "ckpt" / name for m in kept for name in m.files}:
            assert path.read_bytes() == self.hashes.setdefault(path, path.read_bytes()), (
                f"{path.name} changed"
            )
        if self.tidy:
            needed = {name for m in kept for name in (*m.files, f"ckpt-{m.frames}.json")}
            there = {path.name for path in (self.folder / "ckpt").iterdir()} - {checkpoints.LINK}
            assert there == needed, f"left over: {there - needed}; missing: {needed - there}"

    @contextlib.contextmanager
    def _maybe_killed(self, call: int | None) -> Iterator[None]:
        try:
            with _kill_at(call):
                yield
        except Killed:
            self.session = None

    def _settle(self) -> None:
        """Which of the two a commit that may have been cut short is."""
        whole = self._newest().frames
        if self.maybe is not None and whole == self.maybe and self.maybe not in self.committed:
            self.committed.append(self.maybe)
        self.committed = [frames for frames in self.committed if frames <= whole][-KEEP:]
        if self.session is not None:
            self.maybe = None

    def _newest(self) -> Manifest:
        manifest, _ = newest_manifest(self.folder / "ckpt", self.folder)
        assert manifest is not None, "no whole checkpoint is left"
        return manifest

    def _manifest(self, frames: int) -> Manifest:
        return Manifest.read(self.folder / "ckpt" / f"ckpt-{frames}.json")

    def _best_of(self, frames: int) -> int | None:
        """The frame of the best row of eval.csv that a checkpoint at `frames` counts on."""
        size = self._manifest(frames).offsets["eval.csv"]
        lines = self.tables[1].read_bytes()[:size].decode().splitlines()
        rows = [(float(row["score"]), int(row["frames"])) for row in csv.DictReader(lines)]
        return max(rows)[1] if rows else None

    def _count(self, name: str) -> None:
        self.steps[name] += 1


def run(steps: int, seed_: int = 0) -> Counter[str]:
    """At least so many steps, in runs of 50; how many of each kind. AssertionError if an invariant breaks."""
    CommitProtocol.steps = Counter()
    round_ = 0
    while CommitProtocol.steps.total() < steps:
        chosen = settings(
            max_examples=max(1, min(200, steps // 25)),
            stateful_step_count=50,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        machine = seed(seed_ + round_)(type("CommitProtocolRun", (CommitProtocol,), {}))
        run_state_machine_as_test(machine, settings=chosen)
        round_ += 1
    return CommitProtocol.steps


def main() -> None:
    """Take the steps and record how many of each kind there were."""
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    counted = run(int(options.get("steps", "10_000")), int(options.get("seed", "0")))
    rows = [{"step": name, "times": number, "broken": 0} for name, number in sorted(counted.items())]
    for row in rows:
        print(f"{row['step']}: {row['times']}")
    record("commit_protocol", rows)


if __name__ == "__main__":
    main()
