"""`python -m benchmarks.process_kills [kills=30] [processes=2]`: kill processes of one run that has several.

In each case one run is undisturbed, and another is killed repeatedly with SIGKILL: a random one of its
processes or their parent, two times out of three at a random moment, otherwise while a checkpoint is being
written. It is resumed to its end and compared with the first: every checkpoint, every row, the result. None
of its processes may be left ten seconds after a kill. As a negative control the first is compared with a run
of another seed too.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.compare import differences
from benchmarks.kills import newest_frames
from benchmarks.record import ROOT, record

_SMALL = ["eval.episodes=4", "progress=false", "ckpt.minutes=null", "processes_limit_s=60"]
CASES = {
    "PPO on Pong": [
        *("experiment=ppo_pong", "frames=12288", "env.num_envs=4", "algo.rollout_length=128"),
        *("ckpt.every=2048", "log_every=1024", "eval.every=null"),
    ],
    "PPO with normalised observations": [
        *("algo=ppo", "env=halfcheetah", "frames=80k", "env.num_envs=4", "algo.rollout_length=256"),
        *("algo.minibatch_size=256", "algo.normalize_obs=true", "algo.normalize_reward=true"),
        *("ckpt.every=4096", "log_every=2048", "eval.every=20k"),
    ],
    "DQN": [
        *("algo=dqn", "env=cartpole", "frames=40k", "env.num_envs=4", "algo.learning_starts=1k"),
        *("algo.replay.capacity=20k", "ckpt.every=2k", "log_every=2k", "eval.every=10k"),
    ],
    "SAC": [
        *("algo=sac", "env=pendulum", "frames=10k", "env.num_envs=4", "algo.network.hidden=[64,64]"),
        *("algo.learning_starts=400", "algo.updates_per_frame=0.5", "algo.batch_size=64"),
        *("ckpt.every=800", "log_every=800", "eval.every=4k"),
    ],
}


def start(folder: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    """A run in `folder`."""
    command = [sys.executable, "train.py", f"hydra.run.dir={folder}", *_SMALL, *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def left(pids: list[int], patience_s: float = 10) -> list[int]:
    """Those that are still there after `patience_s`."""
    until = time.monotonic() + patience_s
    while (alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.01)
    return alive


def is_saving(folder: Path) -> bool:
    """Whether a checkpoint is written at this moment: its data file is there, and no manifest yet."""
    names = {path.stem for path in (folder / "ckpt").glob("ckpt-[0-9]*.json")}
    return any(path.stem not in names for path in (folder / "ckpt").glob("ckpt-[0-9]*.pt"))


def kill(folder: Path, overrides: list[str], rng: random.Random, *, in_save: bool) -> tuple[str, int]:
    """Kill a process of a session once it has trained; what was killed, '' if it had ended before, and how
    many processes were left.
    """
    before = newest_frames(folder)
    parent = start(folder, overrides)
    while parent.poll() is None and newest_frames(folder) <= max(before, 0):
        time.sleep(0.005)
    if not in_save:
        time.sleep(rng.uniform(0, 0.6))
    while in_save and parent.poll() is None and not is_saving(folder):
        time.sleep(0.0002)
    ranks = children(parent.pid)
    victims = {"parent": parent.pid, **{f"process {n}": pid for n, pid in enumerate(ranks)}}
    name = rng.choice(sorted(victims))
    if parent.poll() is not None or len(ranks) < 2:
        parent.communicate()
        return "", 0
    os.kill(victims[name], signal.SIGKILL)
    parent.communicate()
    return f"{name} {'in a save' if in_save else 'at random'}", len(left(ranks))


def finish(folder: Path, overrides: list[str]) -> None:
    """Resume a run to its end. RuntimeError if it cannot be."""
    process = start(folder, overrides)
    _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{folder} could not be resumed: exit {process.returncode}: {errors.decode()}")


def campaign(case: str, first: int, kills: int, size: int, place: Path) -> dict[str, object]:
    """One case's runs, one of them killed `kills` times; every third kill of all is inside a save."""
    rng, overrides = random.Random(case), [*CASES[case], f"processes={size}"]
    alone, other, number = place / f"{case} alone", place / f"{case} other", 0
    finish(alone, overrides)
    finish(other, [*overrides, "seed=1"])
    made: list[str] = []
    survivors, wrong, runs_that_differ = 0, 0, 0
    while len(made) < kills:
        killed = place / f"{case} killed {number}"
        what, stayed = kill(killed, overrides, rng, in_save=(first + len(made)) % 3 == 0)
        survivors += stayed
        made += [what] if what else []
        if (killed / "result.json").exists() or len(made) == kills:
            finish(killed, overrides)
            found = len(differences(alone, killed))
            wrong, runs_that_differ, number = wrong + found, runs_that_differ + bool(found), number + 1
    saves = sum("in a save" in what for what in made)
    row = {"case": case, "processes": size, "kills": len(made), "inside_a_save": saves, "differences": wrong}
    row |= {
        "runs": number,
        "runs_that_differ": runs_that_differ,
        "left_over": survivors,
        "control_differs": bool(differences(alone, other)),
    }
    print(row, flush=True)
    return {**row, "what": "; ".join(made)}


def main() -> None:
    """Run the campaign, one case after the other."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    kills, size = int(words.get("kills", 30)), int(words.get("processes", 2))
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    bounds = [kills * n // len(CASES) for n in range(len(CASES) + 1)]
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        rows = [
            campaign(case, bounds[n], bounds[n + 1] - bounds[n], size, Path(place))
            for n, case in enumerate(CASES)
        ]
    record("process_kills", rows)


if __name__ == "__main__":
    main()
