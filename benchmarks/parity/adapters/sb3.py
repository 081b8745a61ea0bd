"""Stable-Baselines3, by its documentation: Examples (Callbacks, "Monitor training", "Saving and loading"),
Tensorboard integration, and the RL tips.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.parity.adapter import Job, Report, main, make, numbered, optimizer_steps, tensorboard_rows

SAVES = "CheckpointCallback(save_replay_buffer=True, save_vecnormalize=True)"
RESUMES = (
    "load, load_replay_buffer, VecNormalize.load, learn(reset_num_timesteps=False), same tensorboard_log"
)
TASKS = {"ppo_cartpole": "", "dqn_cartpole": "", "sac_pendulum": "", "ppo_lunar_lander": ""}


def newest(folder: Path) -> tuple[int, Path] | None:
    """rl_model_8192_steps.zip: 8192 frames."""
    return numbered(folder.glob("rl_model_*_steps.zip"), lambda path: int(path.stem.split("_")[2]))


def rows(folder: Path) -> list[tuple[int, float]]:
    """The rows of the training return on TensorBoard."""
    return tensorboard_rows(folder, "rollout/ep_rew_mean")


def settings(job: Job) -> dict[str, Any]:
    """The constructor's keywords, in SB3's names."""
    task, net = job.spec, {"net_arch": [job.spec.hidden] * 2}
    common: dict[str, Any] = {"learning_rate": task.lr, "batch_size": task.batch_size, "gamma": task.gamma}
    if task.algo == "ppo":
        return common | {"n_steps": task.rollout_length, "n_epochs": task.epochs, "policy_kwargs": net}
    common |= {"buffer_size": task.memory, "learning_starts": task.learning_starts, "policy_kwargs": net}
    if task.algo == "dqn":
        common |= {"train_freq": 4, "target_update_interval": 500, "exploration_fraction": 0.5}
    return common


def train(job: Job) -> Report:
    """Train, or resume."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.callbacks import CheckpointCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    task, folder = job.spec, Path(job.folder)
    algo = getattr(sb3, task.algo.upper())
    env = make_vec_env(lambda: make(task.env), n_envs=task.num_envs, seed=job.seed)
    found = newest(folder) if job.resume else None
    if task.normalize_obs and not found:
        env = VecNormalize(env, norm_obs=True, norm_reward=False)
    if found:
        frames, path = found
        if task.normalize_obs:
            env = VecNormalize.load(str(folder / f"rl_model_vecnormalize_{frames}_steps.pkl"), env)
        names = {"lr": "learning_rate", "gamma": "gamma"}
        edits = {names[key]: value for key, value in job.edits.items()}
        model = algo.load(path, env=env, device="cpu", **edits)
        if task.memory:
            model.load_replay_buffer(folder / f"rl_model_replay_buffer_{frames}_steps.pkl")
    else:
        log = {"tensorboard_log": str(folder), "seed": job.seed, "device": "cpu"}
        model = algo("MlpPolicy", env, **settings(job), **log)
    checkpoints = CheckpointCallback(
        save_freq=max(task.every // task.num_envs, 1),
        save_path=str(folder),
        save_replay_buffer=True,
        save_vecnormalize=True,
    )
    left = task.frames - model.num_timesteps
    model.learn(left, callback=checkpoints, tb_log_name="run", reset_num_timesteps=not found)
    return report(model)


def report(model: Any) -> Report:
    """What a model ended with."""
    name = "actor" if hasattr(model.policy, "actor") else "policy"
    optimizer = (model.policy.actor if name == "actor" else model.policy).optimizer
    memory = getattr(model, "replay_buffer", None)
    return Report(
        weights=model.policy.state_dict(),
        updates=optimizer_steps(optimizer.state_dict()),
        lr=optimizer.param_groups[0]["lr"],
        gamma=model.gamma,
        memory=memory and memory.size(),
    )


if __name__ == "__main__":
    main(train, "stable_baselines3", "torch")
