"""The same training by another library, in a process of its own: `python peer.py '<JSON>'`.

The JSON names the library (`stable_baselines3` or `sbx`), the algorithm, the env, the number of
envs, the threads, and the keyword arguments of the algorithm.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from turns import Turns


def train(library: str, algorithm: str, env_id: str, num_envs: int, threads: int, **arguments: Any) -> None:
    """Train without end, on the library's own sync vector env; a game of Atari by the rules of 2015."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    class TakeTurns(BaseCallback):
        turns = Turns()

        def _on_rollout_start(self) -> None:
            self.turns(self.num_timesteps)

        def _on_step(self) -> bool:
            return True

    torch.set_num_threads(threads)
    if env_id.startswith("ale_py:"):
        plain = {"frameskip": 1, "repeat_action_probability": 0.0}  # its wrapper skips frames
        policy = "CnnPolicy"
        envs: Any = VecFrameStack(make_atari_env(env_id, num_envs, seed=0, env_kwargs=plain), 4)
    else:
        policy, envs = "MlpPolicy", make_vec_env(env_id, num_envs, seed=0)
    make = getattr(importlib.import_module(library), algorithm)
    model = make(policy, envs, seed=0, **({"device": "cpu"} if library != "sbx" else {}), **arguments)
    model.learn(10**9, callback=TakeTurns())


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    train(**options)
