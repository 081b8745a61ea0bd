"""CleanRL's file of an algorithm, unchanged: `python cleanrl_file.py '<JSON>'`.

The JSON names the file and its arguments. The files of CleanRL 1.2.0 were written for gym 0.23 and for
gymnasium 0.28: what they call is given by today's gymnasium under the names and forms of then.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
import types
from typing import Any

import gymnasium
import torch
from gymnasium import vector, wrappers
from turns import Turns

SyncVectorEnv = vector.SyncVectorEnv


class Envs:
    """gymnasium's SyncVectorEnv, which takes turns between rollouts of `num_steps`."""

    num_steps = 1

    def __init__(self, makers: Any) -> None:
        self._envs = SyncVectorEnv(makers, autoreset_mode=vector.AutoresetMode.SAME_STEP)
        self._turns, self._frames = Turns(), 0
        self.num_envs = self._envs.num_envs
        self.single_observation_space = self._envs.single_observation_space
        self.single_action_space = self._envs.single_action_space
        self.action_space = self._envs.action_space

    def reset(self, *, seed: int | None = None) -> Any:
        """As gymnasium does."""
        return self._envs.reset(seed=seed)

    def step(self, actions: Any) -> Any:
        """As gymnasium 0.28 did."""
        if self._frames % (self.num_steps * self.num_envs) == 0:
            self._turns(self._frames)
        self._frames += self.num_envs
        *result, infos = self._envs.step(actions)
        return (*result, {"final_observation": infos["final_obs"]} if "final_obs" in infos else {})


class GymEnvs(Envs):
    """The same by the rules of gym 0.23: no truncation, and an info for every environment."""

    def reset(self, *, seed: int | None = None) -> Any:
        """The observations alone."""
        return super().reset(seed=seed)[0]

    def step(self, actions: Any) -> Any:
        """Observations, rewards, ends, infos."""
        obs, reward, terminated, truncated, infos = super().step(actions)
        last = infos.get("final_observation", [None] * self.num_envs)
        infos = [{} if x is None else {"terminal_observation": x} for x in last]
        return obs, reward, terminated | truncated, infos


def gym() -> Any:
    """What the files take from a module of that name."""
    old: Any = wrappers
    transform = wrappers.TransformObservation
    old.TransformObservation = lambda env, f: transform(env, f, env.observation_space)
    old.GrayScaleObservation, old.FrameStack = wrappers.GrayscaleObservation, wrappers.FrameStackObservation
    gymnasium.Wrapper.seed = lambda self, seed: None  # type: ignore[attr-defined]
    module: Any = types.ModuleType("gym")
    module.make, module.spaces, module.wrappers = gymnasium.make, gymnasium.spaces, old
    module.vector = types.SimpleNamespace(SyncVectorEnv=GymEnvs)
    return module


def main() -> None:
    """Run the file."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options.pop("threads"))
    name = options.pop("cleanrl")
    Envs.num_steps = options.get("num-steps", 1)
    arguments = {"total-timesteps": 1_000_000_000, "cuda": False, **options}
    sys.argv[1:] = [f"--{name}={value}" for name, value in arguments.items()]
    sys.modules["gym"] = gym()
    gymnasium.vector.SyncVectorEnv = Envs  # type: ignore[misc, assignment]
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)  # they write events of TensorBoard
        runpy.run_module(f"cleanrl.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
