"""RL Baselines3 Zoo, by its documentation: Train ("Resume training": -i with a path and -n), Customization.

Its checkpoints (`--save-freq`) are of the model alone: `--save-replay-buffer` saves the memory at the end of
training, and normaliser statistics are saved when an evaluation is the best so far.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.parity.adapter import Job, Report, main, optimizer_steps, tensorboard_rows
from benchmarks.parity.adapters import sb3

SAVES = "--save-freq, --save-replay-buffer, --eval-freq (saves VecNormalize at each new best)"
RESUMES = "-i rl_model_N_steps.zip, -n with the frames that are left, same -f and -tb"
TASKS = sb3.TASKS


def newest(folder: Path) -> tuple[int, Path] | None:
    """ppo/ParityCartPole-v1_2/rl_model_8192_steps.zip: 8192 frames; of the folder with the highest number."""
    runs = sorted(folder.glob("*/*_*/"), key=lambda path: int(path.name.rpartition("_")[2]))
    return next(filter(None, map(sb3.newest, reversed(runs))), None)


def rows(folder: Path) -> list[tuple[int, float]]:
    """The rows of the training return on TensorBoard."""
    return tensorboard_rows(folder / "tensorboard", "rollout/ep_rew_mean")


def train(job: Job) -> Report:
    """Train, or resume."""
    from rl_zoo3.train import train as zoo

    task, folder = job.spec, Path(job.folder)
    folder.mkdir(exist_ok=True)
    found = newest(folder) if job.resume else None
    settings = sb3.settings(job) | {
        "policy": "MlpPolicy",
        "n_envs": task.num_envs,
        "n_timesteps": task.frames,
    }
    if task.normalize_obs:
        settings["normalize"] = {"norm_obs": True, "norm_reward": False}
    (folder / "hyperparams.yml").write_text(json.dumps({f"Parity{task.env}": settings}))
    given = {
        "--algo": task.algo,
        "--env": f"Parity{task.env}",
        "--gym-packages": "benchmarks.parity.adapter",
        "--conf-file": folder / "hyperparams.yml",
        "--n-timesteps": task.frames - (found[0] if found else 0),
        "--save-freq": task.every,
        "--eval-freq": task.every,
        "--eval-env-kwargs": "probed:False",
        "--log-folder": folder,
        "--tensorboard-log": folder / "tensorboard",
        "--seed": job.seed,
        "--num-threads": 1,
        "--device": "cpu",
    }
    if found:
        given["--trained-agent"] = found[1]
    sys.argv[1:] = [str(word) for pair in given.items() for word in pair] + ["--save-replay-buffer"]
    names = {"lr": "learning_rate", "gamma": "gamma"}
    if job.edits:
        sys.argv += ["--hyperparams", *(f"{names[key]}:{value}" for key, value in job.edits.items())]
    zoo()
    last = newest(folder)
    assert last, "no checkpoint"
    return report(last[1].parent, f"Parity{task.env}")


def report(run: Path, name: str) -> Report:
    """What a finished run's files hold."""
    from stable_baselines3.common.save_util import load_from_pkl, load_from_zip_file

    loaded: Any = load_from_zip_file(run / f"{name}.zip", device="cpu")  # typed as tensors there
    data, parameters, _ = loaded
    optimizer = parameters.get("policy.optimizer") or parameters["actor.optimizer"]
    memory = run / "replay_buffer.pkl"
    return Report(
        weights=parameters["policy"],
        updates=optimizer_steps(optimizer),
        lr=optimizer["param_groups"][0]["lr"],
        gamma=data["gamma"],
        memory=load_from_pkl(memory).size() if memory.exists() else None,
    )


if __name__ == "__main__":
    main(train, "rl_zoo3", "stable_baselines3", "torch")
