"""The same training by another library, in a process of its own: `python peer.py '<JSON>'`.

The JSON names the library (`stable_baselines3`, `sbx` or `products`), the algorithm, the env, the number of
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


def products(threads: int) -> None:
    """The products of 256 x 256 x 256 that an update of SAC cannot do without: 16 of them, 12 in pairs."""
    import torch

    torch.set_num_threads(threads)
    one, two = torch.randn(256, 256), torch.randn(2, 256, 256)
    turns, frames = Turns(), 0
    while True:
        turns(frames)
        # the actor: forward in obs and in next_obs, backward to its weights and to its first layer
        for _ in range(4):
            torch.mm(one, one)
        # the critics: forward three times, backward to their weights once and to their inputs twice
        for _ in range(6):
            torch.bmm(two, two)
        frames += 1


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    if options["library"] == "products":
        products(options["threads"])
    else:
        train(**options)
