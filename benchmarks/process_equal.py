"""`python -m benchmarks.process_equal [case ...] [iterations=20]`: 1, 2 and 4 processes report the same.

Each case is a whole `train.py` that writes a row of metrics in every iteration. The rows of 2 and of 4
processes are compared with those of one, column by column, but for time. A relative difference is |a - b| /
max(|a|, |b|, 1e-2 of the column's largest value). The largest one is given for the rows up to the 20th
update, and after how many updates one first exceeds 1e-4: differences in rounding grow as training goes on.
As a negative control one process with another seed is compared in the same way. Written to
results/process_equal.csv; exit code 1 if a number differs by more than 1e-4 up to the 20th update, or the
control's by less.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, record

LIMIT, UPDATES = 1e-4, 20
_OFF_POLICY = "algo.rollout_length=8 algo.learning_starts=64 algo.batch_size=64"
CASES = {
    "PPO": "algo=ppo env=cartpole algo.rollout_length=64 algo.minibatch_size=128 algo.epochs=4",
    "A2C": "algo=a2c env=cartpole algo.rollout_length=16",
    "DQN": f"algo=dqn env=cartpole {_OFF_POLICY}",
    "SAC": f"algo=sac env=pendulum algo.network.hidden=[64,64] {_OFF_POLICY}",
    "recurrent PPO with normalisers": "algo=recurrent_ppo env=cartpole algo.rollout_length=64"
    " algo.minibatch_size=128 algo.sequence_length=16 algo.normalize_obs=true algo.normalize_reward=true",
}
_TIME = ("wall_s", "fps")


def rows(overrides: str, iterations: int, place: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv of a run of 8 envs."""
    length = next(int(w.partition("=")[2]) for w in overrides.split() if w.startswith("algo.rollout_length="))
    frames = 8 * length
    common = ["env.num_envs=8", f"frames={iterations * frames}", f"log_every={frames}", "progress=false"]
    off = ["eval.every=null", "eval.episodes=1", "ckpt.every=null", "ckpt.minutes=null"]
    folder = Path(tempfile.mkdtemp(dir=place)) / "run"
    command = [sys.executable, "train.py", *overrides.split(), *common, *off, f"hydra.run.dir={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def largest_difference(one: list[dict[str, str]], other: list[dict[str, str]]) -> tuple[float, str]:
    """The largest relative difference, and the column and the row that have it."""
    found = (0.0, "")
    if len(one) != len(other):
        return float("inf"), f"{len(one)} and {len(other)} rows"
    for name in one[0]:
        if name in _TIME:
            continue
        if [row[name] == "" for row in one] != [row[name] == "" for row in other]:
            return float("inf"), f"{name}: empty in other rows"
        values = [
            (n, float(a[name]), float(b[name]))
            for n, (a, b) in enumerate(zip(one, other, strict=True))
            if a[name]
        ]
        floor = 1e-2 * max((max(abs(a), abs(b)) for _, a, b in values), default=0.0)
        for n, a, b in values:
            if (size := max(abs(a), abs(b), floor)) and abs(a - b) / size > found[0]:
                found = abs(a - b) / size, f"{name}, row {n + 1}"
    return found


def measure(case: str, iterations: int) -> dict[str, Any]:
    """A case's row."""
    with tempfile.TemporaryDirectory(prefix="equal-") as place:
        runs = {n: rows(f"{CASES[case]} processes={n}", iterations, Path(place)) for n in (1, 2, 4)}
        other = rows(f"{CASES[case]} seed=1", iterations, Path(place))
    updates = [int(row["updates"]) for row in runs[1]]
    first = 1 + next(n for n, count in enumerate(updates) if count >= UPDATES)  # rows up to the 20th update
    row: dict[str, Any] = {"case": case, "rows": first, "columns": len(runs[1][0]) - len(_TIME)}
    for n in (2, 4):
        difference, where = largest_difference(runs[1][:first], runs[n][:first])
        row |= {f"largest_difference_{n}": f"{difference:.2g}", f"where_{n}": where}
    row["control"] = f"{largest_difference(runs[1][:first], other[:first])[0]:.2g}"
    for n in (2, 4):
        exceeded = [
            count
            for end, count in enumerate(updates, 1)
            if largest_difference(runs[1][:end], runs[n][:end])[0] > LIMIT
        ]
        row[f"within_for_updates_{n}"] = f"{exceeded[0]}" if exceeded else f"more than {updates[-1]}"
    print(row, flush=True)
    return row


def main() -> int:
    """Compare the cases named on the command line, or all; the exit code."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    names = [word for word in sys.argv[1:] if "=" not in word] or list(CASES)
    found = [measure(name, int(options.get("iterations", 20))) for name in names]
    record("process_equal", found)
    same = all(float(row[f"largest_difference_{n}"]) <= LIMIT for row in found for n in (2, 4))
    return 0 if same and all(float(row["control"]) > LIMIT for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
