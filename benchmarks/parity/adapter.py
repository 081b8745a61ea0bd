"""What adapters share: the tasks, the probe that counts frames and episodes, and the report at the end.

An adapter is a module with
- SAVES and RESUMES: the documented features that it uses, by name;
- TASKS: the tasks that the framework offers, each with what is different there ('' if nothing);
- `newest(folder)`: the frames and the file of the newest checkpoint, None without one; where that is a
  folder, `weights_file(folder)`: the file in it to damage;
- `rows(folder)`: the rows of the framework's own metrics: frames, and a value that tells two rows apart;
- `train(job)`: train, or resume; its report.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np


@dataclass(frozen=True)
class Task:
    """One training task, with the same hyper-parameters for every framework."""

    algo: str
    env: str
    frames: int
    every: int  # frames between checkpoints
    num_envs: int
    lr: float
    batch_size: int
    gamma: float = 0.99
    hidden: int = 64  # two layers of it
    rollout_length: int = 0  # PPO: steps of each env between updates
    epochs: int = 4
    normalize_obs: bool = False
    learning_starts: int = 0
    memory: int = 0  # transitions that the replay memory holds
    window: int = 20  # episodes whose mean return is reported before and after the resume


TASKS = {
    "ppo_cartpole": Task("ppo", "CartPole-v1", 32_768, 4096, 8, 1e-3, 256, rollout_length=128),
    "dqn_cartpole": Task(
        "dqn", "CartPole-v1", 20_000, 2000, 1, 1e-3, 64, learning_starts=1000, memory=50_000
    ),
    "sac_pendulum": Task(
        "sac", "Pendulum-v1", 3000, 500, 1, 1e-3, 128, learning_starts=500, memory=50_000, window=5
    ),
    "ppo_lunar_lander": Task(
        "ppo", "LunarLander-v3", 32_768, 4096, 8, 1e-3, 256, rollout_length=256, normalize_obs=True
    ),
}


@dataclass(frozen=True)
class Job:
    """What one session is to do."""

    task: str
    folder: str
    seed: int = 1
    resume: bool = False
    edits: dict[str, float] = field(default_factory=dict)  # lr, gamma: given at the resume

    @property
    def spec(self) -> Task:
        """The task's hyper-parameters."""
        return TASKS[self.task]

    def value(self, key: str) -> float:
        """A hyper-parameter, as edited."""
        return self.edits.get(key, getattr(self.spec, key))


@dataclass
class Report:
    """What a session says of itself when it has ended."""

    weights: Mapping[str, Any]  # name -> array or tensor
    updates: int  # optimizer steps, by the optimizer's own count
    lr: float  # as the optimizer has it
    gamma: float
    memory: int | None = None  # transitions in the replay memory


class Probe:
    """Counts frames in a file that outlives a kill, and writes a line for each episode."""

    LAYOUT = struct.Struct("qd")  # frames, time of the first one

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(self.LAYOUT.pack(0, 0.0))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.frames, self.first_at = self.read()
        self.episodes = path.with_suffix(".episodes").open("a", buffering=1)

    def read(self) -> tuple[int, float]:
        """The frames so far, and the time of the first in seconds since the epoch."""
        frames, first_at = self.LAYOUT.unpack(self.memory[:])
        return frames, first_at

    def add(self, frames: int) -> None:
        """So many frames more."""
        self.first_at = self.first_at or time.time()
        self.frames += frames
        self.memory[:] = self.LAYOUT.pack(self.frames, self.first_at)

    def add_episode(self, total_reward: float) -> None:
        """An episode has ended."""
        self.episodes.write(f"{self.frames},{total_reward}\n")


_probe: Probe | None = None


def probe() -> Probe:
    """The process's probe."""
    global _probe
    if _probe is None:
        _probe = Probe(Path(os.environ["PARITY_PROBE"]))
    return _probe


class Probed(gym.Wrapper):  # type: ignore[type-arg]
    """An environment whose frames and episodes are counted."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.total_reward = 0.0

    def reset(self, **keys: Any) -> tuple[Any, dict[str, Any]]:
        """A new episode."""
        self.total_reward = 0.0
        return self.env.reset(**keys)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One frame."""
        step = self.env.step(action)
        probe().add(1)
        self.total_reward += float(step[1])
        if step[2] or step[3]:
            probe().add_episode(self.total_reward)
        return step


def make(id: str, *, probed: bool = True, **keys: Any) -> gym.Env[Any, Any]:
    """A task's environment, counted unless it is for evaluation."""
    env = gym.make(id.removeprefix("Parity"), **keys)
    return Probed(env) if probed else env


for _id in sorted({task.env for task in TASKS.values()}):
    gym.register(f"Parity{_id}", entry_point="benchmarks.parity.adapter:make", kwargs={"id": _id})


def flat(state: Any, path: str = "") -> dict[str, Any]:
    """The tensors of nested dicts by their paths."""
    if isinstance(state, Mapping):
        return {name: value for key in state for name, value in flat(state[key], f"{path}/{key}").items()}
    return {path: state} if hasattr(state, "detach") else {}


def optimizer_steps(state: Mapping[str, Any]) -> int:
    """The steps that a torch optimizer's state dict counts; 0 before its first."""
    return max((int(entry["step"]) for entry in state["state"].values()), default=0)


def tensorboard_rows(folder: Path, tag: str) -> list[tuple[int, float]]:
    """The steps and values of a scalar in a folder's event files, in the order of their names."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}, purge_orphaned_data=False)
        events.Reload()
        if tag in events.Tags()["scalars"]:
            rows += [(event.step, event.value) for event in events.Scalars(tag)]
    return rows


def numbered(paths: Iterable[Path], frames: Callable[[Path], int]) -> tuple[int, Path] | None:
    """Of some checkpoints the one with the most frames."""
    return max(((frames(path), path) for path in paths), default=None)


def main(train: Callable[[Job], Report], *packages: str) -> None:
    """Do the job that the command line holds, and leave the report beside the probe's file."""
    job = Job(**json.loads(sys.argv[1]))
    sys.argv[1:] = []
    report = train(job)
    place = Path(os.environ["PARITY_PROBE"])
    weights: dict[str, Any] = {
        name: np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        for name, value in report.weights.items()
    }
    np.savez(place.with_suffix(".npz"), **weights)
    said = {key: value for key, value in vars(report).items() if key != "weights"}
    said["versions"] = "; ".join(f"{package} {version(package)}" for package in packages)
    place.with_suffix(".json").write_text(json.dumps(said))
