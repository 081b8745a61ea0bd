"""SheepRL, by its documentation: howto/run_experiments, howto/logs_and_checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.parity.adapter import Job, Report, flat, main, numbered, optimizer_steps, tensorboard_rows

SAVES = "checkpoint.every, checkpoint.save_last, buffer.checkpoint=True"
RESUMES = "checkpoint.resume_from=PATH, with the same command line"
TASKS = {
    "ppo_cartpole": "",
    "sac_pendulum": "",
    "ppo_lunar_lander": "observations as they are: it has no normaliser of its own",
}


def newest(folder: Path) -> tuple[int, Path] | None:
    """.../version_0/checkpoint/ckpt_8192_0.ckpt: 8192 frames."""
    return numbered(folder.rglob("ckpt_*_0.ckpt"), lambda path: int(path.stem.split("_")[1]))


def rows(folder: Path) -> list[tuple[int, float]]:
    """The rows of the training return on TensorBoard."""
    return tensorboard_rows(folder, "Rewards/rew_avg")


def overrides(job: Job) -> list[str]:
    """The command line."""
    task = job.spec
    words = [
        f"exp={task.algo}",
        f"seed={job.seed}",
        f"env.id={task.env}",
        "env.wrapper._target_=benchmarks.parity.adapter.make",
        f"env.num_envs={task.num_envs}",
        "env.sync_env=True",
        "env.capture_video=False",
        f"algo.total_steps={task.frames}",
        f"algo.per_rank_batch_size={task.batch_size}",
        f"algo.gamma={job.value('gamma')}",
        "algo.run_test=False",
        f"checkpoint.every={task.every}",
        "checkpoint.keep_last=100",
        "metric.log_every=1024",
        f"log_root={job.folder}",
        f"hydra.run.dir={job.folder}/hydra",
        "model_manager.disabled=True",
    ]
    if task.algo == "ppo":
        words += [f"algo.rollout_steps={task.rollout_length}", f"algo.update_epochs={task.epochs}"]
        return [*words, f"algo.optimizer.lr={job.value('lr')}"]
    words += [f"algo.{part}.optimizer.lr={job.value('lr')}" for part in ("actor", "critic", "alpha")]
    words += [f"algo.hidden_size={task.hidden}", f"algo.learning_starts={task.learning_starts}"]
    return [*words, f"buffer.size={task.memory}", "buffer.checkpoint=True"]


def train(job: Job) -> Report:
    """Train, or resume."""
    from sheeprl.cli import run

    folder = Path(job.folder)
    found = newest(folder) if job.resume else None
    sys.argv[1:] = overrides(job) + ([f"checkpoint.resume_from={found[1]}"] if found else [])
    run()
    return report(max(folder.rglob("ckpt_*_0.ckpt"), key=lambda path: path.stat().st_mtime_ns))


def report(path: Path) -> Report:
    """What the last checkpoint holds."""
    import torch
    from omegaconf import OmegaConf

    state = torch.load(path, weights_only=False)
    optimizer = state.get("optimizer") or state["actor_optimizer"]
    memory = state["rb"][0] if "rb" in state else None
    return Report(
        weights=flat(state["agent"]),
        updates=optimizer_steps(optimizer),
        lr=float(optimizer["param_groups"][0]["lr"]),
        gamma=OmegaConf.load(path.parent.parent / "config.yaml").algo.gamma,
        memory=None if memory is None else memory.buffer_size if memory.full else memory._pos,
    )


if __name__ == "__main__":
    main(train, "sheeprl", "lightning", "torch")
