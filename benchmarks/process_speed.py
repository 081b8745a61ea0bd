"""`python -m benchmarks.process_speed [case ...] [rounds=3] [turn_s=12]`: one run on one process and on two.

The sides of a case alternate: each is a whole `train.py`, started anew, whose frames are counted from its
second iteration on for `turn_s` seconds. Ratios are taken round by round, and their median is given. What an
iteration spends in exchanges with the other process, waiting for it included, is in the last column. The rows
of cases that are not measured stay.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, record
from rl.training.run import Run

_CHEETAH = (
    "algo=ppo env=halfcheetah env.num_envs=16 algo.rollout_length=256 algo.minibatch_size=512 algo.epochs=10"
    " algo.network.hidden=[256,256]"
)
CASES = {
    "ppo_pong": ("experiment=ppo_pong env.deepmind=true", ["processes=1", "processes=2", "threads=2"]),
    "ppo_halfcheetah_256_256_16_envs": (_CHEETAH, ["processes=1", "processes=2"]),
}


class Note:
    """A callback: writes after each iteration which frame it is, when, and how long exchanges took so far."""

    def __call__(self, run: Run) -> None:
        """Add a line."""
        with (run.folder / "notes.jsonl").open("a") as file:
            talked_s = getattr(run.group, "talked_s", 0.0)
            file.write(json.dumps([run.clock.frames, time.monotonic(), talked_s]) + "\n")


def turn(overrides: str, turn_s: float, place: Path) -> tuple[float, float]:
    """Frames per second of a side, and its milliseconds of exchange in an iteration."""
    folder = Path(tempfile.mkdtemp(dir=place)) / "run"
    off = "frames=1_000M eval.every=null ckpt.every=null ckpt.minutes=null progress=false log_every=1M"
    callback = "callbacks=[{_target_: benchmarks.process_speed.Note}]"
    command = [
        sys.executable,
        "train.py",
        *overrides.split(),
        *off.split(),
        callback,
        f"hydra.run.dir={folder}",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    notes: list[list[float]] = []
    while process.poll() is None and (len(notes) < 3 or notes[-1][1] - notes[1][1] < turn_s):
        time.sleep(0.2)
        path = folder / "notes.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        notes = [json.loads(line) for line in lines]
    process.terminate()
    process.wait()
    (frames, began, talked), (last_frames, ended, last_talked) = notes[1], notes[-1]
    return (last_frames - frames) / (ended - began), (last_talked - talked) / (len(notes) - 2) * 1000


def measure(case: str, rounds: int, turn_s: float) -> list[dict[str, Any]]:
    """A row for each side."""
    overrides, names = CASES[case]
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="speed-") as place:
        for number in range(rounds):
            for name in names:
                turns[name].append(turn(f"{overrides} {name}", turn_s, Path(place)))
            said = "  ".join(f"{name} {those[-1][0]:.0f}" for name, those in turns.items())
            print(f"  {case}, round {number + 1}: {said}", flush=True)
    rows = []
    for name, those in turns.items():
        ratios = [mine / first for (mine, _), (first, _) in zip(those, turns[names[0]], strict=True)]
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
