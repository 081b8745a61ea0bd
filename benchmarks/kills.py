"""`python -m benchmarks.kills [kills=50] [seeds=10] [train.py overrides ...]`: kill runs, resume and compare.

For each seed one run is uninterrupted and another is killed repeatedly: two times out of three at a random
moment, otherwise within a save, at a random one of its system calls. It is then resumed to its end and
compared with the first: every checkpoint, every row, the result. A kill counts if the session had trained
before it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.compare import differences
from benchmarks.record import ROOT, record

SETTINGS = ["frames=80k", "ckpt.every=4k", "log_every=4k"]
SETTINGS += ["eval.every=20k", "eval.episodes=10", "progress=false"]
CALLS = {"fsync": 7, "replace": 2, "unlink": 3, "write": 6}  # about how many of each one save makes


def start(module: list[str], folder: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    """A training process in `folder`."""
    command = [sys.executable, *module, f"hydra.run.dir={folder}", *SETTINGS, *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def newest_frames(folder: Path) -> int:
    """The frames of the newest committed checkpoint, -1 if there is none."""
    return max(
        (int(path.stem.partition("-")[2]) for path in (folder / "ckpt").glob("ckpt-*.json")), default=-1
    )


def kill_at_random(folder: Path, overrides: list[str], rng: random.Random) -> str:
    """Kill a session at a random moment after it has trained; '' if it ended before."""
    before = newest_frames(folder)
    process = start(["train.py"], folder, overrides)
    while process.poll() is None and newest_frames(folder) <= max(before, 0):
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.4))
    if process.poll() is not None:
        process.communicate()
        return ""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return "at random"


def kill_in_save(folder: Path, overrides: list[str], rng: random.Random) -> str:
    """Kill a session inside one of its saves; '' if it was not reached, or nothing was trained before."""
    before = newest_frames(folder)
    call = rng.choice(list(CALLS))
    number = rng.randint(CALLS[call] + 4, 4 * CALLS[call] + 4)
    process = start(["-m", "benchmarks.dying", call, str(number)], folder, overrides)
    process.communicate()
    trained = process.returncode == -signal.SIGKILL and newest_frames(folder) > max(before, 0)
    return f"os.{call} call {number}" if trained else ""


def finish(folder: Path, overrides: list[str]) -> None:
    """Resume a run to its end. RuntimeError if it cannot be."""
    process = start(["train.py"], folder, overrides)
    _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{folder} could not be resumed: exit {process.returncode}: {errors.decode()}")


def campaign(seed: int, first: int, kills: int, overrides: list[str], place: Path) -> dict[str, object]:
    """One seed's two runs, one of them killed `kills` times; every third kill of all, counted from `first`,
    is inside a save.
    """
    rng, of_seed = random.Random(seed), [*overrides, f"seed={seed}"]
    alone, killed = place / f"alone-{seed}", place / f"killed-{seed}"
    finish(alone, of_seed)
    made: list[str] = []
    while len(made) < kills:
        how = kill_in_save if (first + len(made)) % 3 == 0 else kill_at_random
        what = how(killed, of_seed, rng)
        if what:
            made.append(what)
        if (killed / "result.json").exists():  # it reached its end: compare, and go on with another
            _check_and_clear(killed, alone)
    finish(killed, of_seed)
    found = differences(alone, killed)
    saves = sum(what.startswith("os.") for what in made)
    print(
        f"seed {seed}: {len(made)} kills, {saves} inside a save, differences: {found or 'none'}", flush=True
    )
    return {
        "seed": seed,
        "kills": len(made),
        "inside_a_save": saves,
        "differences": len(found),
        "what": "; ".join(made),
    }


def main() -> None:
    """Run the campaign, two seeds at a time."""
    words = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith(("kills=", "seeds=")))
    overrides = [word for word in sys.argv[1:] if not word.startswith(("kills=", "seeds="))]
    kills, seeds = int(words.get("kills", 50)), int(words.get("seeds", 10))
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    bounds = [kills * n // seeds for n in range(seeds + 1)]
    with tempfile.TemporaryDirectory(prefix="kills-") as place, ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(campaign, n + 1, bounds[n], bounds[n + 1] - bounds[n], overrides, Path(place))
            for n in range(seeds)
        ]
        rows = [job.result() for job in jobs]
    record("kills" + "".join(f"_{word.replace('=', '-').replace('.', '-')}" for word in overrides), rows)
    if any(row["differences"] for row in rows):
        raise SystemExit(1)


def _check_and_clear(killed: Path, alone: Path) -> None:
    found = differences(alone, killed)
    if found:
        raise RuntimeError(f"{killed} differs from {alone}: {found}")
    shutil.rmtree(killed)


if __name__ == "__main__":
    main()
