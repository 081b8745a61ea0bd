"""Encore, by docs/resume-and-enjoy.md: `python train.py resume=FOLDER`.

A resume steps environments that replay their tapes, a first start tries that out, and the last weights play
100 episodes; these are not frames of training. So after every iteration, and at the end, the count is set to
the clock's, and the first frame is timed at the end of the first iteration: later than it was.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym

from benchmarks.parity.adapter import Job, Report, flat, main, numbered, probe

SAVES = "ckpt.every"
RESUMES = "python train.py resume=FOLDER"
TASKS = {"ppo_cartpole": "", "dqn_cartpole": "", "sac_pendulum": "", "ppo_lunar_lander": ""}
_ENVS = {"CartPole-v1": "cartpole", "Pendulum-v1": "pendulum", "LunarLander-v3": "lunar_lander"}


class Counted(gym.Wrapper):  # type: ignore[type-arg]
    """An environment that counts every step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One frame."""
        probe().add(1)
        return self.env.step(action)


class Frames:
    """A callback: the frames that this session has trained, and the episodes that ended."""

    start: int | None = None  # frames at the begin of this session
    trained = 0

    def __call__(self, run: Any) -> None:
        """After an iteration."""
        counter = probe()
        if Frames.start is None:
            config = run.config
            Frames.start = run.clock.frames - config.algo.rollout_length * config.env.num_envs
            counter.first_at = 0.0
        Frames.trained = run.clock.frames - Frames.start
        counter.add(Frames.trained - counter.frames)
        for total_reward in run.collector.ended_returns:
            counter.add_episode(float(total_reward))


def newest(folder: Path) -> tuple[int, Path] | None:
    """ckpt/ckpt-8192.json commits 8192 frames; the weights are in ckpt-8192.pt."""
    found = numbered(folder.glob("ckpt/ckpt-*.json"), lambda path: int(path.stem.partition("-")[2]))
    return found and (found[0], found[1].with_suffix(".pt"))


def rows(folder: Path) -> list[tuple[int, float]]:
    """The rows of metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [(int(row["frames"]), float(row["total_reward_ma"])) for row in csv.DictReader(file)]


def overrides(job: Job) -> list[str]:
    """The command line of a new run."""
    task, here = job.spec, "benchmarks.parity.adapters.encore"
    words = [
        f"algo={task.algo}",
        f"env={_ENVS[task.env]}",
        f"frames={task.frames}",
        f"seed={job.seed}",
        f"env.num_envs={task.num_envs}",
        f"algo.gamma={task.gamma}",
        f"algo.lr={task.lr}",
        f"algo.network.hidden=[{task.hidden},{task.hidden}]",
        f"ckpt.every={task.every}",
        "log_every=1024",
        "progress=false",
        f"eval.every={task.frames}",  # at the end
        f"env.wrappers=[{{_target_: {here}.Counted}}]",
        f"callbacks=[{{_target_: {here}.Frames}}]",
        f"hydra.run.dir={job.folder}",
    ]
    if task.algo == "ppo":
        words += [f"algo.rollout_length={task.rollout_length}", f"algo.minibatch_size={task.batch_size}"]
        return [*words, f"algo.epochs={task.epochs}", f"algo.normalize_obs={task.normalize_obs}"]
    words += [f"algo.batch_size={task.batch_size}", f"algo.learning_starts={task.learning_starts}"]
    words += [f"algo.replay.capacity={task.memory}"]
    if task.algo == "dqn":
        words += ["algo.epsilon=[[0,1.0],[10k,0.05]]", "algo.target_every=500"]
    return words


def train(job: Job) -> Report:
    """Train, or resume."""
    from benchmarks.parity.adapters.encore import Frames  # the one that Hydra finds, not __main__'s
    from rl.train import main as encore

    edits = [f"algo.{key}={value}" for key, value in job.edits.items()]
    sys.argv[1:] = [f"resume={job.folder}", *edits] if job.resume else overrides(job)
    try:
        encore()
    except SystemExit as end:
        if end.code:
            raise
    probe().add(Frames.trained - probe().frames)
    return report(Path(job.folder))


def report(folder: Path) -> Report:
    """What the last checkpoint holds."""
    from omegaconf import OmegaConf

    from rl.serialize import load

    last = newest(folder)
    assert last, "no checkpoint"
    state = load(last[1].read_bytes(), "cpu")
    algo = OmegaConf.load(folder / "config.yaml").algo
    memory = state.get("agent.replay")
    kept = ("agent.optimizer", "agent.replay")
    networks = {name: part for name, part in state.items() if name.startswith("agent.") and name not in kept}
    return Report(
        weights=flat(networks),
        updates=state["clock"]["updates"],
        lr=float(algo.lr),
        gamma=algo.gamma,
        memory=memory and memory["end"] - memory["begin"],
    )


if __name__ == "__main__":
    main(train, "encore-rl", "torch")
