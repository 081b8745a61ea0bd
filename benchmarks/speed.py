"""How fast training is: `python -m benchmarks.speed [case ...] [rounds=8] [turn_s=3] [against=DIR]`.

The sides of a case are processes that are all alive, and take turns of a few seconds on one core: one goes
on (SIGCONT) while all others stand still (SIGSTOP). A machine that is shared drifts by a factor of two within
a minute, so ratios are taken round by round, and their median is given: of frames per second, and of frames
per second of the process's own CPU time, which other processes disturb less. One thread each, unless the
case's name says otherwise; without evaluation and checkpoints. The last side is the floor: what the training
cannot do without, and nothing else (`sides/floor.py`); those before it have Encore's own gradient steps in it
(`sides/steps.py`).

With `against=DIR` the other side is Encore as it is in DIR, another checkout of it. Without a case, all are
measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, record
from rl.training.torch_setup import multiplies_bfloat16

SIDES = Path(__file__).parent / "sides"
WARM_UP_S = 8.0  # long enough for the first updates, where compiled graphs are made


@dataclass(frozen=True)
class Case:
    """A training, by our overrides and by the other libraries' arguments."""

    overrides: str
    peer: dict[str, Any] = field(default_factory=dict)  # of Stable-Baselines3; empty: there is none
    sbx: bool = True  # whether sbx has the algorithm
    cleanrl: dict[str, Any] = field(default_factory=dict)  # arguments of cleanrl_file.py
    floor: dict[str, Any] = field(default_factory=dict)  # arguments of floor.py
    variants: dict[str, str] = field(default_factory=dict)  # further sides of ours: overrides
    threads: int = 1


_64 = {"policy_kwargs": {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}}
_256 = {"policy_kwargs": {"net_arch": [256, 256]}}
_SAC = {
    "algorithm": "SAC",
    "num_envs": 1,
    "batch_size": 256,
    "learning_starts": 100,
    "learning_rate": 3e-4,
    **_256,
}
_OUR_SAC = (
    "algo=sac env.num_envs=1 algo.updates_per_frame=1 algo.batch_size=256 algo.network.hidden=[256,256]"
    " algo.lr=3e-4 algo.learning_starts=100"
)
_ROUNDED = (
    {"Encore, compile=true, rounded products": "compile=true matmul_precision=medium"}
    if multiplies_bfloat16()
    else {}
)
_SAC_FLOOR = {"program": "sac", "batch_size": 256, "capacity": 100_000, "hidden": [256, 256]}
_SAC_CLEANRL = {"cleanrl": "sac_continuous_action", "learning-starts": 100, "buffer-size": 100_000}
_PLAIN_PPO = (
    "algo=ppo algo.network.hidden=[64,64] algo.lr=3e-4 algo.network.activation=tanh"
    " algo.normalize_obs=false algo.normalize_reward=false"
)

CASES = {
    # 8 envs x 128 steps, 4 epochs of 4 minibatches, separate 64-64 tanh
    "ppo_cartpole": Case(
        f"{_PLAIN_PPO} env=cartpole env.num_envs=8 algo.rollout_length=128 algo.epochs=4"
        " algo.minibatch_size=256",
        {"algorithm": "PPO", "env_id": "CartPole-v1", "num_envs": 8}
        | {"n_steps": 128, "n_epochs": 4, "batch_size": 256, **_64},
        cleanrl={"cleanrl": "ppo", "env-id": "CartPole-v1", "num-envs": 8, "num-steps": 128},
        floor={"program": "on_policy", "env_id": "CartPole-v1", "num_envs": 8, "n_steps": 128}
        | {"n_epochs": 4, "batch_size": 256, "hidden": [64, 64]},
    ),
    # 8 envs x 5 steps, separate 64-64 tanh, RMSprop
    "a2c_cartpole": Case(
        "algo=a2c env=cartpole env.num_envs=8 algo.rollout_length=5 algo.network.hidden=[64,64]"
        " algo.network.activation=tanh",
        {"algorithm": "A2C", "env_id": "CartPole-v1", "num_envs": 8, "n_steps": 5, **_64},
        sbx=False,
        floor={"program": "on_policy", "env_id": "CartPole-v1", "num_envs": 8, "n_steps": 5}
        | {"n_epochs": 1, "batch_size": 40, "hidden": [64, 64]},
    ),
    # 1 env, batches of 128, an update every 10 steps, 10k transitions, 120-84 relu
    "dqn_cartpole": Case(
        "algo=dqn env=cartpole env.num_envs=1 algo.rollout_length=10 algo.updates_per_frame=0.1"
        " algo.batch_size=128 algo.lr=2.5e-4 algo.replay.capacity=10k algo.learning_starts=1k"
        " algo.target_every=500 algo.network.hidden=[120,84] algo.epsilon=0.05",
        {"algorithm": "DQN", "env_id": "CartPole-v1", "num_envs": 1, "train_freq": 10, "gradient_steps": 1}
        | {"batch_size": 128, "buffer_size": 10_000, "learning_starts": 1000, "learning_rate": 2.5e-4}
        | {"target_update_interval": 500, "exploration_initial_eps": 0.05, "exploration_final_eps": 0.05}
        | {"policy_kwargs": {"net_arch": [120, 84]}},
        cleanrl={"cleanrl": "dqn", "env-id": "CartPole-v1", "train-frequency": 10, "batch-size": 128}
        | {"buffer-size": 10_000, "learning-starts": 1000, "exploration-fraction": 1e-6},
        floor={"program": "dqn", "env_id": "CartPole-v1", "batch_size": 128, "capacity": 10_000}
        | {"train_freq": 10, "hidden": [120, 84]},
    ),
    # 1 env, an update a frame, batches of 256, 256-256 relu
    "sac_pendulum": Case(
        f"{_OUR_SAC} env=pendulum",
        {**_SAC, "env_id": "Pendulum-v1"},
        cleanrl={**_SAC_CLEANRL, "env-id": "Pendulum-v1"},
        floor={**_SAC_FLOOR, "env_id": "Pendulum-v1"},
        variants=_ROUNDED,
    ),
    "sac_pendulum_2_threads": Case(
        f"{_OUR_SAC} env=pendulum",
        {**_SAC, "env_id": "Pendulum-v1"},
        floor={**_SAC_FLOOR, "env_id": "Pendulum-v1"},
        threads=2,
    ),
    "sac_halfcheetah": Case(
        f"{_OUR_SAC} env=halfcheetah",
        {**_SAC, "env_id": "HalfCheetah-v5"},
        cleanrl={**_SAC_CLEANRL, "env-id": "HalfCheetah-v5"},
        floor={**_SAC_FLOOR, "env_id": "HalfCheetah-v5"},
        variants=_ROUNDED,
    ),
    # 1 env x 2048 steps, 10 epochs, minibatches of 64, separate 64-64 tanh; CleanRL's file normalises
    # observations and rewards too
    "ppo_halfcheetah": Case(
        f"{_PLAIN_PPO} env=halfcheetah env.num_envs=1 algo.rollout_length=2048 algo.epochs=10"
        " algo.minibatch_size=64",
        {"algorithm": "PPO", "env_id": "HalfCheetah-v5", "num_envs": 1}
        | {"n_steps": 2048, "n_epochs": 10, "batch_size": 64, **_64},
        cleanrl={"cleanrl": "ppo_continuous_action", "env-id": "HalfCheetah-v5", "num-steps": 2048}
        | {"num-minibatches": 32, "update-epochs": 10},
        floor={"program": "on_policy", "env_id": "HalfCheetah-v5", "num_envs": 1, "n_steps": 2048}
        | {"n_epochs": 10, "batch_size": 64, "hidden": [64, 64]},
    ),
    # 8 envs x 128 steps, 4 epochs of 4 minibatches, the network and rules of Mnih et al. 2015. What differs:
    # our games are ale-py's vector env on one thread; theirs are gymnasium's, made small by OpenCV.
    "ppo_pong": Case(
        "experiment=ppo_pong env.deepmind=true algo.lr=2.5e-4",
        {"algorithm": "PPO", "env_id": "ale_py:ALE/Pong-v5", "num_envs": 8, "n_steps": 128, "n_epochs": 4}
        | {"batch_size": 256, "learning_rate": 2.5e-4, "clip_range": 0.1, "ent_coef": 0.01},
        cleanrl={"cleanrl": "ppo_atari", "env-id": "ale_py:PongNoFrameskip-v4", "num-envs": 8}
        | {"num-steps": 128},
        sbx=False,
        floor={"program": "pong", "num_envs": 8, "n_steps": 128, "n_epochs": 4, "batch_size": 256},
        variants={"Encore, env.vectorization=sync": "env.vectorization=sync"},
    ),
}


@dataclass
class Turn:
    """What one side did in one turn."""

    frames: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds

    @property
    def per_cpu_second(self) -> float:
        """Frames per second of CPU time."""
        return self.frames / self.cpu_seconds


class Side:
    """A process that trains while it is its turn, and stands still otherwise."""

    def __init__(self, command: Sequence[str], root: Path, threads: int, log: Path) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root), str(SIDES)]),
            "ENCORE_BENCHMARK_TURNS": f"{orders} {answers}",
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
        }
        if threads == 1:  # XLA starts a thread for every core, whatever it is told
            command = ["taskset", "-c", str(max(os.sched_getaffinity(0))), *command]
        self.log = log
        self._process = subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            pass_fds=(orders, answers),
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(orders)
        os.close(answers)
        self._reader = os.fdopen(self._answers)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def turn(self, seconds: float) -> Turn:
        """Let the side train for at least these seconds, to the end of an iteration."""
        os.killpg(self._process.pid, signal.SIGCONT)
        os.write(self._orders, f"{seconds}\n".encode())
        answer = self._reader.readline()
        if not answer:
            raise SystemExit(f"a side ended:\n{self.log.read_text()[-2000:]}")
        os.killpg(self._process.pid, signal.SIGSTOP)
        frames, wall_s, cpu_s = answer.split()
        return Turn(int(frames), float(wall_s), float(cpu_s))

    def close(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._orders)
        self._reader.close()


def encore(overrides: str, folder: Path) -> list[str]:
    """The command of a side of ours: train.py as a user types it, which takes turns between iterations."""
    quiet = ["frames=1_000_000_000", "eval.every=null", "ckpt.every=1_000_000_000", "ckpt.minutes=null"]
    turns = ["callbacks=[{_target_: turns.callback}]", "progress=false", f"hydra.run.dir={folder}"]
    return [sys.executable, "train.py", *overrides.split(), *quiet, *turns]


def other(threads: int, arguments: dict[str, Any]) -> list[str]:
    """The command of another library or of a floor: its file by an argument that no file before it has."""
    files = {"library": "peer.py", "cleanrl": "cleanrl_file.py", "overrides": "steps.py"}
    file = next((file for name, file in files.items() if name in arguments), "floor.py")
    return [sys.executable, str(SIDES / file), json.dumps({"threads": threads, **arguments})]


def sides_of(case: Case, against: Path | None) -> Iterator[tuple[str, str | dict[str, Any], Path]]:
    """Each side's name, our overrides or the other program's arguments, and the checkout."""
    compiled = f"{case.overrides} compile=true"
    if against:
        sha = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=against, capture_output=True, text=True, check=True
        ).stdout.strip()
        yield f"Encore {sha}", case.overrides, against
        yield "Encore", case.overrides, ROOT
        yield f"Encore {sha}, compile=true", compiled, against
        yield "Encore, compile=true", compiled, ROOT
        return
    yield "Stable-Baselines3", {"library": "stable_baselines3", **case.peer}, ROOT
    if case.sbx and find_spec("sbx"):
        yield "sbx (JAX)", {"library": "sbx", **case.peer}, ROOT
    if case.cleanrl and find_spec("cleanrl"):
        yield f"CleanRL's {case.cleanrl['cleanrl']}.py", case.cleanrl, ROOT
    yield "Encore", case.overrides, ROOT
    yield "Encore, compile=true", compiled, ROOT
    for name, more in case.variants.items():
        yield name, f"{case.overrides} {more}", ROOT
    if "hidden" in case.floor:
        acting = {name: case.floor[name] for name in ("program", "env_id", "hidden")}
        yield "its floor with Encore's steps", {"overrides": case.overrides, **acting}, ROOT
        yield "its floor with Encore's steps, compile=true", {"overrides": compiled, **acting}, ROOT
    if case.floor:
        yield "its floor", case.floor, ROOT


def measure(case: Case, rounds: int, turn_s: float, against: Path | None) -> dict[str, list[Turn]]:
    """All sides' turns, after one to warm up."""
    with tempfile.TemporaryDirectory(prefix="speed-") as place, contextlib.ExitStack() as alive:
        sides = {}
        for number, (name, what, root) in enumerate(sides_of(case, against)):
            folder = Path(place) / str(number)
            threads = f"threads={case.threads}"
            command = (
                encore(f"{what} {threads}", folder) if isinstance(what, str) else other(case.threads, what)
            )
            side = Side(command, root, case.threads, Path(place) / f"{number}.log")
            alive.callback(side.close)
            started_at = time.perf_counter()
            side.turn(WARM_UP_S)
            print(f"  {name}: began in {time.perf_counter() - started_at:.1f} s", flush=True)
            sides[name] = side
        turns: dict[str, list[Turn]] = {name: [] for name in sides}
        for number in range(rounds):
            for name, side in sides.items():
                turns[name].append(side.turn(turn_s))
            said = "  ".join(f"{name} {those[-1].per_second:.0f}" for name, those in turns.items())
            print(f"  round {number + 1}: {said}", flush=True)
    return turns


def rows_of(case: str, turns: dict[str, list[Turn]]) -> list[dict[str, Any]]:
    """One row for each side: medians, and the medians of its rounds' ratios to the first side, or with two
    versions of Encore to the side before.
    """
    names, rows = list(turns), []
    first = turns[names[0]]
    for name, those in turns.items():
        yardstick = first
        if names[0].startswith("Encore") and "compile=true" in name:
            yardstick = turns[names[2]]
        pairs = list(zip(those, yardstick, strict=True))
        ratios = [a.per_second / b.per_second for a, b in pairs]
        cpu_ratios = [a.per_cpu_second / b.per_cpu_second for a, b in pairs]
        rows.append(
            {
                "case": case,
                "side": name,
                "median": f"{statistics.median(turn.per_second for turn in those):.6g}",
                "unit": "frames/s",
                "ratio_to_first": f"{statistics.median(ratios):.4g}",
                "cpu_ratio_to_first": f"{statistics.median(cpu_ratios):.4g}",
                "ratios": " ".join(f"{ratio:.3f}" for ratio in ratios),
                "cpu_ratios": " ".join(f"{ratio:.3f}" for ratio in cpu_ratios),
            }
        )
    return rows


def main() -> None:
    """Measure the cases named on the command line."""
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    rounds, turn_s = int(options.pop("rounds", 8)), float(options.pop("turn_s", 3))
    against = Path(options.pop("against")).resolve() if "against" in options else None
    names = [word for word in sys.argv[1:] if "=" not in word] or list(CASES)
    unknown = {*names} - {*CASES} | {*options}
    if unknown:
        raise SystemExit(f"no such case or option: {', '.join(sorted(unknown))}; cases: {', '.join(CASES)}")
    for name in names:
        print(name, flush=True)
        rows = rows_of(name, measure(CASES[name], rounds, turn_s, against))
        for row in rows:
            print(
                f"  {row['side']}: {row['median']} frames/s,"
                f" {row['ratio_to_first']} ({row['cpu_ratio_to_first']} by CPU time)"
            )
        record(f"{'versions' if against else 'speed'}_{name}", rows)


if __name__ == "__main__":
    main()
