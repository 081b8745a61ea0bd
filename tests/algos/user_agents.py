"""Agents as users write them, for the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl.algos.agent import Agent, AgentContext, Recurrent, Rollout
from rl.algos.ppo import PPO
from rl.config.keys import FREE, SCHEDULE, Count, Key
from rl.config.schedule import Schedule
from rl.config.schema.algos import PPOConfig


class Inherits(PPO):
    """Its keys are those of PPO."""


@dataclass
class OwnConfig(PPOConfig):
    """PPO's keys, and some of its own."""

    bonus: Annotated[Schedule, Key("added to rewards", SCHEDULE, low=0)]
    window: Annotated[Count, Key("frames of something", FREE, low=1)]


class Own(PPO):
    """PPO whose rewards have a bonus."""

    Config = OwnConfig
    cfg: OwnConfig

    def learn(self, rollout: Rollout) -> dict[str, float]:
        rollout.reward += np.float32(self.cfg.bonus(self.clock.frames))
        return super().learn(rollout)


class Plain(Agent):
    """Keywords, no `Config`, and the earlier names: the first action always, and a count of rollouts."""

    playing = ("count",)

    def __init__(self, setting: AgentContext, *, rollout_length: int, lr: Any) -> None:
        self.rollout_length, self.lr = rollout_length, Schedule(lr)
        self.action_shape, self.action_dtype = (), np.int64
        self.clock, self.count = setting.clock, RolloutCount()
        self.parts = {"count": self.count}

    def act(
        self, obs: Any, state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[Any, Recurrent]:
        return np.zeros(len(obs), np.int64), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        self.count.value += 1
        return {"loss": float(self.count.value), "lr": self.lr(self.clock.frames)}


class RolloutCount:
    """A number that a checkpoint holds."""

    value = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
