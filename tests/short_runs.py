"""Short runs for tests: made in this process, in a forked child or by the real command line, and compared bit
for bit.
"""

from __future__ import annotations

import csv
import gc
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.compare import replay_rows
from rl.config.compose import options
from rl.config.counts import parse_count
from rl.config.overrides import quote
from rl.runs.manifest import Manifest
from rl.runs.outcome import with_exit_codes
from rl.runs.plan import make_plan
from rl.runs.weights import load_learned
from rl.serialize import load
from rl.training.build import build
from rl.training.run import Run
from rl.training.session import perform

ROOT = Path(__file__).resolve().parent.parent

NUM_ENVS = 2
# 10 iterations of 64 frames, with an evaluation and a checkpoint at every second or third of them
TINY = [
    *("frames=640", f"env.num_envs={NUM_ENVS}", "algo.rollout_length=32", "algo.network.hidden=[8]"),
    *("log_every=64", "eval.every=192", "eval.episodes=2", "ckpt.every=128", "ckpt.minutes=null"),
]
OF_TIME = ("wall_s", "fps")  # columns that measure the machine


# every algorithm, and every environment: in conf/ neither knows of the other
PAIRS = [*((algo, "cartpole") for algo in options("algo")), *(("reinforce", env) for env in options("env"))]


def to_compose(env: str) -> list[str]:
    """The overrides that choose an environment, complete."""
    return [f"env={env}", *{"gym": ["env.id=CartPole-v1"], "atari": ["env.game=pong"]}.get(env, [])]


def go(folder: Path, *overrides: str, config_dir: str | None = None) -> int:
    """What `python train.py hydra.run.dir=<folder> ...` does, without Hydra and in this process; the exit
    code.
    """
    plan = None

    def do() -> None:
        nonlocal plan
        plan = make_plan([*overrides, f"hydra.run.dir={quote(str(folder))}"], config_dir)
        parts = build(plan.config)
        if plan.weights:
            plan.warnings += load_learned(parts.agent, plan.weights, plan.config.device)
        plan.take_folder()
        perform(plan, parts, "the test's command")

    try:
        with_exit_codes(do)
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        if plan is not None and plan.lock is not None:
            plan.lock.release()
    return 0


def begun(folder: Path, *overrides: str, config_dir: str | None = None) -> Run:
    """A run at frame 0 or at its checkpoint, to be stepped by hand."""
    plan = make_plan([*overrides, f"hydra.run.dir={folder}"], config_dir)
    parts = build(plan.config)
    plan.take_folder()
    assert plan.lock is not None
    plan.lock.release()
    run = Run(plan, parts)
    run.begin("the test's command")
    return run


def iterate(run: Run, iterations: int = 1) -> None:
    """What the loop does in an iteration, but for what goes to files."""
    for _ in range(iterations):
        rollout = run.collector.collect(run.agent)
        run.metrics.add_episodes(run.collector.ended_returns, run.collector.ended_lengths)
        run.metrics.add(run.agent.learn(rollout))


def hold(run: Run) -> None:
    """A callback: stays at frame 4096 and after as long as the working directory has a file `hold`."""
    while run.clock.frames >= 4096 and Path("hold").exists():
        time.sleep(0.01)


def command(*overrides: str, script: str = "train.py") -> list[str]:
    return [sys.executable, str(ROOT / script), *overrides]


def environment() -> dict[str, str]:
    path = ":".join([str(ROOT), str(ROOT / "tests"), *map(str, (ROOT / "tests").glob("*/"))])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def typed(*overrides: str) -> subprocess.CompletedProcess[str]:
    """The real command line, in the working directory."""
    return subprocess.run(
        command(*overrides), capture_output=True, text=True, env=environment(), check=False, timeout=300
    )


def started(*overrides: str) -> subprocess.Popen[str]:
    """The real command line, left running."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(*overrides), stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment()
    )


def in_child(action: Callable[[], Any], output: Path | None = None) -> int:
    """Do it in a fork of this process, with everything imported already; the exit code, negative for a
    signal.
    """
    return os.waitstatus_to_exitcode(os.waitpid(forked(action, output), 0)[1])


def forked(action: Callable[[], Any], output: Path | None = None) -> int:
    """Do it in a fork that is left running; its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        gc.freeze()  # or collecting garbage would copy every page that is shared with the parent
        code = 99
        try:
            if output is not None:
                descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
            code = int(action() or 0)
        except BaseException:  # noqa: BLE001  whatever it was, this process must not go on with the tests
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


# -------------------------------------------------------------------------------------------------- comparing


def record(folder: Path) -> dict[str, Any]:
    """All in which two runs must agree, leaf by leaf: every checkpoint, every row, the result, and which
    files there are.
    """
    found: dict[str, Any] = {
        "files": sorted(path.name for path in folder.iterdir() if path.name not in ("train.log", ".hydra"))
    }
    found["checkpoints"] = sorted(os.listdir(folder / "ckpt"))
    found["link"] = (
        os.readlink(folder / "ckpt" / "ckpt-best") if (folder / "ckpt" / "ckpt-best").is_symlink() else None
    )
    for path in sorted((folder / "ckpt").glob("*.pt")):
        found |= leaves(load(path.read_bytes(), "cpu"), path.name)
    for path in sorted((folder / "ckpt").glob("*.json")):
        manifest = Manifest.read(path)
        found[path.name] = (manifest.frames, manifest.data, manifest.files, manifest.best)
        found |= (
            {f"replay at {manifest.frames}": memory_of(folder, manifest.frames)} if manifest.replay else {}
        )
    for name in ("metrics.csv", "eval.csv"):
        for number, row in enumerate(rows(folder / name)):
            found |= {
                f"{name}:{number}:{column}": cell for column, cell in row.items() if column not in OF_TIME
            }
    if (folder / "result.json").exists():
        result = json.loads((folder / "result.json").read_text())
        found["result.json"] = {name: value for name, value in result.items() if name != "wall_s"}
    return found


def memory_of(folder: Path, frames: int) -> list[list[bytes]]:
    """The rows of a checkpoint's replay memory that can be drawn, whichever chunks hold them."""
    algo = yaml.safe_load((folder / "config.yaml").read_text())["algo"]
    rows = replay_rows(folder, frames)
    in_ring = parse_count(algo["replay"]["capacity"]) // NUM_ENVS + algo["n_step"]
    return [rows[row] for row in sorted(rows)[-in_ring:]]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of the leaves in which two records differ."""
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if not (name in one and name in other and same(one[name], other[name]))
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def leaves(value: Any, path: str) -> dict[str, Any]:
    """Every leaf of nested dicts, lists and tuples by its path."""
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value))
    else:
        return {path: value}
    return {f"{path} ({type(value).__name__})": len(parts)} | {
        k: v for name, part in parts for k, v in leaves(part, f"{path}/{name}").items()
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def frames_of(folder: Path) -> list[int]:
    """The checkpoints that a run's folder holds."""
    return sorted(Manifest.read(path).frames for path in (folder / "ckpt").glob("*.json"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
