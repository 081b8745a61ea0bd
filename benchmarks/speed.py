"""How fast training is: `python -m benchmarks.speed [case ...] [repeats=5]`; without a case, all of them.

The sides of a case alternate within one run, and medians are compared: machines are noisy, ratios are less
so. What is held against Stable-Baselines3 has a process of its own, for what one tells the C library holds
for a whole process. Evaluation and checkpoints are off inside the timed windows unless they are what is
measured. One thread each, unless the case's name says otherwise.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import contextlib
import functools
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, record
from rl.config import RunConfig
from rl.config.compose import compose
from rl.config.overrides import Overrides
from rl.runs.manifest import Manifest
from rl.runs.plan import Plan
from rl.training.build import Parts, build
from rl.training.metrics import Metrics
from rl.training.run import Run

WARM_UP_S, TIMED_S = 1.0, 4.0
Side = Callable[[], float]  # measures once; the bigger the better
Make = Callable[[], Callable[[], int]]  # builds what trains; each call of that gives the frames it took

_step: Callable[[], int]


def frames_per_second(
    step: Callable[[], int], timed_s: float = TIMED_S, warm_up_s: float = WARM_UP_S
) -> float:
    """Frames per second of repeated calls of `step`, each giving the frames it took, after a warm-up."""
    until = time.perf_counter() + warm_up_s
    while time.perf_counter() < until:
        step()
    frames, started_at = 0, time.perf_counter()
    while (now := time.perf_counter()) < started_at + timed_s:
        frames += step()
    return frames / (now - started_at)


def make_parts(*overrides: str) -> Parts:
    """A run's parts, ready for its first iteration."""
    parts = build(compose(overrides, RunConfig).config)
    parts.collector.start()
    return parts


def training(parts: Parts) -> Callable[[], int]:
    """One iteration: collect and learn."""

    def step() -> int:
        rollout = parts.collector.collect(parts.agent)
        parts.agent.learn(rollout)
        return rollout.reward.size

    return step


def random_actions(parts: Parts) -> Callable[[], int]:
    """The same vector env alone, with actions drawn beforehand."""
    envs, count = parts.collector.envs, 2000
    actions = [envs.action_space.sample() for _ in range(count)]

    def step() -> int:
        for action in actions:
            envs.step(action)
        return count * envs.num_envs

    return step


def alternate(sides: dict[str, Side], repeats: int) -> dict[str, list[float]]:
    """Measure the sides in turn, `repeats` times each."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            values[name].append(side())
            print(f"  {name}: {values[name][-1]:.4g}", flush=True)
    return values


def rows_of(case: str, unit: str, values: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row for each side: the median, all values, and the ratio of its median to the first side's."""
    first = statistics.median(next(iter(values.values())))
    return [
        {
            "case": case,
            "side": side,
            "median": f"{statistics.median(measured):.6g}",
            "unit": unit,
            "ratio_to_first": f"{statistics.median(measured) / first:.4g}",
            "values": " ".join(f"{value:.6g}" for value in measured),
        }
        for side, measured in values.items()
    ]


def training_with_metrics(*overrides: str, frames: int = 4096) -> Callable[[], int]:
    """About `frames` of iterations as the loop makes them, rows of metrics.csv included; without evaluation
    and checkpoints.
    """
    parts = make_parts(*overrides)
    cfg, clock, agent, collector = parts.config, parts.clock, parts.agent, parts.collector
    metrics = Metrics(Path(tempfile.mkdtemp()) / "metrics.csv", agent.columns)
    metrics.table.start()
    batch = max(1, frames // (agent.rollout_length * cfg.env.num_envs))

    def step() -> int:
        before = clock.frames
        for _ in range(batch):
            rollout = collector.collect(agent)
            metrics.add_episodes(collector.ended_returns, collector.ended_lengths)
            metrics.add(agent.learn(rollout))
            if clock.due(cfg.log_every):
                metrics.write(clock)
        return clock.frames - before

    return step


def stable_baselines(
    algorithm: str, env_id: str, num_envs: int, *, threads: int = 1, frames: int = 4096, **arguments: Any
) -> Callable[[], int]:
    """The same training by Stable-Baselines3, on its own sync vector env; a game of Atari by the rules of
    2015.
    """
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    torch.set_num_threads(threads)
    if env_id.startswith("ale_py:"):
        plain = {"frameskip": 1, "repeat_action_probability": 0.0}  # its wrapper skips frames
        policy, envs = (
            "CnnPolicy",
            VecFrameStack(make_atari_env(env_id, num_envs, seed=0, env_kwargs=plain), 4),
        )
    else:
        policy, envs = "MlpPolicy", make_vec_env(env_id, num_envs, seed=0)
    model = getattr(stable_baselines3, algorithm)(policy, envs, seed=0, device="cpu", **arguments)
    iteration = arguments.get("n_steps", arguments.get("train_freq", 1)) * num_envs
    frames = max(iteration, frames // iteration * iteration)

    def step() -> int:
        model.learn(frames, reset_num_timesteps=False)
        return frames

    return step


def against_stable_baselines(
    case: str,
    repeats: int,
    ours: Sequence[str],
    theirs: dict[str, Any],
    timed_s: float,
    frames: int = 4096,
    more: dict[str, Make] | None = None,
) -> list[dict[str, Any]]:
    """Stable-Baselines3, Encore, and Encore compiled, with the same hyper-parameters."""
    makes: dict[str, Make] = {
        "Stable-Baselines3": functools.partial(stable_baselines, **theirs, frames=frames),
        "Encore": functools.partial(training_with_metrics, *ours, frames=frames),
        "Encore, compile=true": functools.partial(
            training_with_metrics, *ours, "compile=true", frames=frames
        ),
        **(more or {}),
    }
    sides: dict[str, Side] = {}
    began: dict[str, float] = {}  # the seconds until each had stepped once
    with contextlib.ExitStack() as processes:
        for name, make in makes.items():
            process = processes.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
            began[name] = process.submit(_begin, make).result()
            sides[name] = functools.partial(
                lambda process: process.submit(_measure, timed_s).result(), process
            )
        rows = rows_of(case, "frames/s", alternate(sides, repeats))
    return [
        {**row, "compile_s": f"{began[row['side']]:.1f}" if "compile" in row["side"] else ""} for row in rows
    ]


def _begin(make: Make) -> float:
    """In a side's own process: build it and step once; the seconds that took."""
    global _step  # noqa: PLW0603  the process is the side's
    started_at = time.perf_counter()
    _step = make()
    _step()
    return time.perf_counter() - started_at


def _measure(timed_s: float) -> float:
    """In a side's own process."""
    return frames_per_second(_step, timed_s)


def ppo_cartpole(repeats: int) -> list[dict[str, Any]]:
    """PPO, CartPole: 8 envs x 128 steps, 4 epochs of 4 minibatches, separate 64-64 tanh."""
    ours = (
        "algo=ppo env=cartpole env.num_envs=8 algo.rollout_length=128 algo.epochs=4 algo.minibatch_size=256"
    )
    ours += " algo.network.hidden=[64,64]"
    common = [
        "algo.lr=3e-4",
        "algo.network.activation=tanh",
        "algo.normalize_obs=false",
        "algo.normalize_reward=false",
    ]
    theirs = {
        "n_steps": 128,
        "n_epochs": 4,
        "batch_size": 256,
        "policy_kwargs": {"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
    }
    return against_stable_baselines(
        "ppo_cartpole",
        repeats,
        [*ours.split(), *common],
        {"algorithm": "PPO", "env_id": "CartPole-v1", "num_envs": 8, **theirs},
        6.0,
    )


def a2c_cartpole(repeats: int) -> list[dict[str, Any]]:
    """A2C, CartPole: 8 envs x 5 steps, separate 64-64 tanh, RMSprop."""
    ours = "algo=a2c env=cartpole env.num_envs=8 algo.rollout_length=5"
    ours += " algo.network.hidden=[64,64] algo.network.activation=tanh"
    theirs = {"n_steps": 5, "policy_kwargs": {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}}
    return against_stable_baselines(
        "a2c_cartpole",
        repeats,
        ours.split(),
        {"algorithm": "A2C", "env_id": "CartPole-v1", "num_envs": 8, **theirs},
        6.0,
    )


def dqn_cartpole(repeats: int) -> list[dict[str, Any]]:
    """DQN, CartPole: 1 env, batches of 128, an update every 10 steps, 10k transitions, 120-84 relu."""
    ours = "algo=dqn env=cartpole env.num_envs=1 algo.rollout_length=10 algo.updates_per_frame=0.1"
    ours += " algo.batch_size=128 algo.lr=2.5e-4 algo.replay.capacity=10k algo.learning_starts=1k"
    ours += " algo.target_every=500 algo.network.hidden=[120,84] algo.epsilon=0.05"
    theirs = {
        "train_freq": 10,
        "gradient_steps": 1,
        "batch_size": 128,
        "buffer_size": 10_000,
        "learning_starts": 1000,
    }
    theirs |= {
        "learning_rate": 2.5e-4,
        "target_update_interval": 500,
        "exploration_initial_eps": 0.05,
        "exploration_final_eps": 0.05,
    }
    theirs |= {
        "algorithm": "DQN",
        "env_id": "CartPole-v1",
        "num_envs": 1,
        "policy_kwargs": {"net_arch": [120, 84]},
    }
    return against_stable_baselines("dqn_cartpole", repeats, ours.split(), theirs, 6.0)


def ppo_halfcheetah(repeats: int) -> list[dict[str, Any]]:
    """PPO, HalfCheetah: 1 env x 2048 steps, 10 epochs, minibatches of 64, separate 64-64 tanh."""
    ours = "algo=ppo env=halfcheetah env.num_envs=1 algo.rollout_length=2048 algo.epochs=10"
    ours += " algo.minibatch_size=64 algo.network.hidden=[64,64]"
    common = [
        "algo.lr=3e-4",
        "algo.network.activation=tanh",
        "algo.normalize_obs=false",
        "algo.normalize_reward=false",
    ]
    theirs = {
        "n_steps": 2048,
        "n_epochs": 10,
        "batch_size": 64,
        "policy_kwargs": {"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
    }
    return against_stable_baselines(
        "ppo_halfcheetah",
        repeats,
        [*ours.split(), *common],
        {"algorithm": "PPO", "env_id": "HalfCheetah-v5", "num_envs": 1, **theirs},
        10.0,
    )


def ppo_pong(repeats: int) -> list[dict[str, Any]]:
    """PPO, Pong: 8 envs x 128 steps, 4 epochs of 4 minibatches, the network of Mnih et al. 2015, shared, and
    their rules.

    What differs: our games are ale-py's vector env on one thread, and go on where a life is lost (Pong has
    none); theirs are gymnasium's, one after another, their frames made small by OpenCV.
    """
    ours = ["experiment=ppo_pong", "env.deepmind=true", "algo.lr=2.5e-4"]
    theirs = {
        "n_steps": 128,
        "n_epochs": 4,
        "batch_size": 256,
        "learning_rate": 2.5e-4,
        "clip_range": 0.1,
        "ent_coef": 0.01,
    }
    return against_stable_baselines(
        "ppo_pong",
        repeats,
        ours,
        {"algorithm": "PPO", "env_id": "ale_py:ALE/Pong-v5", "num_envs": 8, **theirs},
        20.0,
        frames=1024,
        more={
            "Encore, env.vectorization=sync": functools.partial(
                training_with_metrics, *ours, "env.vectorization=sync", frames=1024
            )
        },
    )


def sac_pendulum(repeats: int, threads: int = 1) -> list[dict[str, Any]]:
    """SAC, Pendulum: 1 env, an update a frame, batches of 256, 256-256 relu; and only its matrix products."""
    ours = "algo=sac env=pendulum env.num_envs=1 algo.updates_per_frame=1 algo.batch_size=256"
    ours += " algo.network.hidden=[256,256] algo.lr=3e-4"
    theirs = {
        "batch_size": 256,
        "learning_starts": 100,
        "learning_rate": 3e-4,
        "policy_kwargs": {"net_arch": [256, 256]},
    }
    case = "sac_pendulum" if threads == 1 else f"sac_pendulum_{threads}_threads"
    return against_stable_baselines(
        case,
        repeats,
        [*ours.split(), "algo.learning_starts=100", f"threads={threads}"],
        {"algorithm": "SAC", "env_id": "Pendulum-v1", "num_envs": 1, "threads": threads, **theirs},
        6.0,
        frames=110,
        more={"its matrix products alone": functools.partial(products_of_sac, threads)},
    )


def products_of_sac(threads: int) -> Callable[[], int]:
    """The products of 256 x 256 x 256 that an update of SAC cannot do without: 16 of them, 12 in pairs."""
    import torch

    torch.set_num_threads(threads)
    one, two = torch.randn(256, 256), torch.randn(2, 256, 256)

    def step() -> int:
        # the actor: forward in obs and in next_obs, backward to its weights and to its first layer
        for _ in range(4):
            torch.mm(one, one)
        # the critics: forward three times, backward to their weights once and to their inputs twice
        for _ in range(6):
            torch.bmm(two, two)
        return 1

    return step


def reinforce_cartpole(repeats: int) -> list[dict[str, Any]]:
    """Training against the same vector env with random actions alone."""
    alone = make_parts()
    train = training_with_metrics()
    sides = {
        "random actions": lambda: frames_per_second(random_actions(alone)),
        "training": lambda: frames_per_second(train),
    }
    return rows_of("reinforce_cartpole", "frames/s", alternate(sides, repeats))


def tape(repeats: int) -> list[dict[str, Any]]:
    """Seconds of one iteration, and what of them the tape takes."""
    parts = make_parts()
    step, record_actions = training(parts), parts.collector.tape.record
    spent: list[float] = []

    def timed(*arguments: Any) -> None:
        started_at = time.perf_counter()
        record_actions(*arguments)
        spent.append(time.perf_counter() - started_at)

    parts.collector.tape.record = timed  # type: ignore[method-assign]
    frames = parts.collector.rollout.reward.size
    sides = {
        "one iteration": lambda: frames / frames_per_second(step),
        "recording its actions": lambda: statistics.median(spent),
    }
    return rows_of("tape", "s", alternate(sides, repeats))


def run_of(folder: Path, overrides: Sequence[str]) -> Run:
    """A run in a folder, at frame 0 or where its newest checkpoint is."""
    composed = compose(overrides, RunConfig)
    parts = build(composed.config)
    manifests = sorted(
        (Manifest.read(path) for path in folder.glob("ckpt/ckpt-*.json")), key=lambda m: m.frames
    )
    run = Run(Plan(folder, composed, Overrides(), manifest=manifests[-1] if manifests else None), parts)
    if not manifests:
        run.begin("benchmark")
    return run


def checkpoints(repeats: int) -> list[dict[str, Any]]:
    """Seconds of training between two checkpoints at the default interval, against the seconds that a
    checkpoint takes.
    """
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        run = run_of(Path(folder), [])
        interval = run.parts.config.ckpt.every
        step = training(run.parts)

        def save() -> float:
            step()  # a checkpoint of new frames
            started_at = time.perf_counter()
            run.save()
            return time.perf_counter() - started_at

        sides = {
            "training for one interval": lambda: interval / frames_per_second(step),
            "one checkpoint": lambda: statistics.median(save() for _ in range(5)),
        }
        return rows_of("checkpoints", "s", alternate(sides, repeats))


def start_up(repeats: int) -> list[dict[str, Any]]:
    """Seconds until the first training step is done: torch alone, a fresh start, a resume."""
    folder = Path(tempfile.mkdtemp())
    first = [
        "algo.rollout_length=8",
        f"outputs={folder / 'fresh'}",
        "callbacks=[{_target_: benchmarks.speed_callbacks.leave}]",
    ]
    leave = {"ENCORE_BENCHMARK_LEAVE": "1"}
    old = folder / "old"
    train = [sys.executable, "train.py"]
    torch_alone = (
        "import torch; n = torch.nn.Linear(4, 2); o = torch.optim.Adam(n.parameters(), lr=1e-3);"
        "n(torch.zeros(1, 4)).sum().backward(); o.step()"
    )
    _run([*train, *first, "frames=1k", f"hydra.run.dir={old}", "eval.every=null"])

    def resumed() -> float:
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(old, copy, symlinks=True)
        return _run([*train, f"resume={copy}", "frames=2k"], leave)

    sides = {
        "import torch and one optimizer step": lambda: _run([sys.executable, "-c", torch_alone]),
        "fresh start to the first training step": lambda: _run([*train, *first], leave),
        "resume to the first training step": resumed,
    }
    try:
        return rows_of("start_up", "s", alternate(sides, repeats))
    finally:
        shutil.rmtree(folder)


def _run(command: Sequence[str], extra: dict[str, str] | None = None) -> float:
    started_at = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(extra or {})}
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started_at


CASES: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "reinforce_cartpole": reinforce_cartpole,
    "ppo_cartpole": ppo_cartpole,
    "a2c_cartpole": a2c_cartpole,
    "dqn_cartpole": dqn_cartpole,
    "ppo_halfcheetah": ppo_halfcheetah,
    "ppo_pong": ppo_pong,
    "sac_pendulum": sac_pendulum,
    "sac_pendulum_2_threads": functools.partial(sac_pendulum, threads=2),
    "tape": tape,
    "checkpoints": checkpoints,
    "start_up": start_up,
}


def main() -> None:
    """Measure the cases named on the command line."""
    words = sys.argv[1:]
    repeats = next((int(w.partition("=")[2]) for w in words if w.startswith("repeats=")), 5)
    names = [w for w in words if "=" not in w] or list(CASES)
    unknown = set(names) - set(CASES)
    if unknown:
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    np.random.seed(0)
    for name in names:
        print(name, flush=True)
        rows = CASES[name](repeats)
        for row in rows:
            print(f"  {row['side']}: {row['median']} {row['unit']}, {row['ratio_to_first']} of the first")
        record(f"speed_{name}", rows)


if __name__ == "__main__":
    main()
