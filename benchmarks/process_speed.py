"""`python -m benchmarks.process_speed [case ...] [rounds=3] [turn_s=12]`: one run on one process and on two.

The sides of a case alternate: each is a whole `train.py`, started anew, whose frames are counted from its
second iteration on for `turn_s` seconds. Ratios are taken round by round, and their median is given. What an
iteration spends in exchanges with the other process, waiting for it included, is in the last column. The
last side is the ceiling: two runs at once, each with half of the environments and of a minibatch, that never
talk. The rows of cases that are not measured stay.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, record, started
from rl.training.run import Run

_CHEETAH = (
    "algo=ppo env=halfcheetah env.num_envs=16 algo.rollout_length=256 algo.minibatch_size=512 algo.epochs=10"
    " algo.network.hidden=[256,256]"
)
# the overrides of all sides, and those of half the size
CASES = {
    "ppo_pong": ("experiment=ppo_pong env.deepmind=true", "env.num_envs=4 algo.minibatch_size=128"),
    "ppo_halfcheetah_256_256_16_envs": (_CHEETAH, "env.num_envs=8 algo.minibatch_size=256"),
}


class Note:
    """A callback: writes after each iteration which frame it is, when, and how long exchanges took so far."""

    def __call__(self, run: Run) -> None:
        """Add a line."""
        with (run.folder / "notes.jsonl").open("a") as file:
            talked_s = getattr(run.group, "talked_s", 0.0)
            file.write(json.dumps([run.clock.frames, time.monotonic(), talked_s]) + "\n")


def turn(runs: list[str], turn_s: float, place: Path) -> tuple[float, float]:
    """Frames per second of runs at once, together, and the milliseconds of exchange in an iteration."""
    folders = [Path(tempfile.mkdtemp(dir=place)) / "run" for _ in runs]
    off = "frames=1_000M eval.every=null ckpt.every=null ckpt.minutes=null progress=false log_every=1M"
    callback = "callbacks=[{_target_: benchmarks.process_speed.Note}]"
    processes = [
        started(*f"{overrides} {off}".split(), callback, f"hydra.run.dir={folder}")
        for overrides, folder in zip(runs, folders, strict=True)
    ]
    found: list[list[list[float]]] = [[]]
    while not all(len(those) > 2 and those[-1][1] - those[0][1] >= turn_s for those in found):
        time.sleep(0.2)
        assert all(process.poll() is None for process in processes)
        found = [notes_of(folder)[1:] for folder in folders]
        if all(found):  # from where all train
            began = max(those[0][1] for those in found)
            found = [[note for note in those if note[1] >= began] for those in found]
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
    per_second = sum((those[-1][0] - those[0][0]) / (those[-1][1] - those[0][1]) for those in found)
    return per_second, (found[0][-1][2] - found[0][0][2]) / (len(found[0]) - 1) * 1000


def notes_of(folder: Path) -> list[list[float]]:
    """What `Note` has written by now."""
    path = folder / "notes.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def measure(case: str, rounds: int, turn_s: float) -> list[dict[str, Any]]:
    """A row for each side."""
    overrides, half = CASES[case]
    sides = {name: [f"{overrides} {name}"] for name in ("processes=1", "processes=2", "threads=2")}
    sides["two runs of half the size"] = [f"{overrides} {half}"] * 2
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory(prefix="speed-") as place:
        for number in range(rounds):
            for name, runs in sides.items():
                turns[name].append(turn(runs, turn_s, Path(place)))
            said = "  ".join(f"{name} {those[-1][0]:.0f}" for name, those in turns.items())
            print(f"  {case}, round {number + 1}: {said}", flush=True)
    rows = []
    for name, those in turns.items():
        ratios = [mine / first for (mine, _), (first, _) in zip(those, turns["processes=1"], strict=True)]
        rows.append(
            {
                "case": case,
                "side": name,
                "median": f"{statistics.median(fps for fps, _ in those):.6g}",
                "unit": "frames/s",
                "ratio_to_first": f"{statistics.median(ratios):.4g}",
                "ratios": " ".join(f"{ratio:.3f}" for ratio in ratios),
                "exchange_ms_an_iteration": f"{statistics.median(ms for _, ms in those):.4g}",
            }
        )
    return rows


def main() -> None:
    """Measure the cases named on the command line, or all."""
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    rounds, turn_s = int(options.get("rounds", 3)), float(options.get("turn_s", 12))
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    names = [word for word in sys.argv[1:] if "=" not in word] or list(CASES)
    path = RESULTS / "process_speed.csv"
    kept: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["case"] not in names]
    record("process_speed", [*kept, *(row for name in names for row in measure(name, rounds, turn_s))])


if __name__ == "__main__":
    main()
