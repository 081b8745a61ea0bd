"""The agent: what every algorithm is to the loop, which knows no more of it than this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rl.clock import Clock
from rl.envs.make import float32_or_uint8
from rl.learning.gradient_step import GradientStep, Loss
from rl.learning.replay import Transitions, UniformReplay
from rl.learning.rollout import Recurrent, Rollout
from rl.state import Stateful, Streams

Array = NDArray[Any]
Extras = Mapping[str, Array]  # what `act` tells `learn` of a step: arrays [N, ...] by name
Actions = tuple[Array, Recurrent] | tuple[Array, Recurrent, Extras]


@dataclass(frozen=True)
class AgentContext:
    """What an agent is told about the run it is built for, besides its own keys; and what several build."""

    obs_space: gym.spaces.Box
    action_space: gym.Space
    num_envs: int
    clock: Clock
    streams: Streams
    device: str
    compile: bool
    frame_stack: int = 1  # observations are so many frames, newest last, each step bringing one
    zero_padded: bool = False  # frames before an episode's first are zeros; else they are that one

    def batch_size(self, cfg: Any, sequence_length: int = 1) -> int:
        """Steps of a rollout, over all envs.

        ValueError if minibatches do not fill it or have no spread, or sequences do not fill both.
        """
        steps, size = cfg.rollout_length * self.num_envs, cfg.minibatch_size
        if steps % size:
            near = min((d for d in range(1, steps + 1) if steps % d == 0), key=lambda d: abs(d - size))
            raise ValueError(
                f"algo.minibatch_size={size} does not divide rollout_length * num_envs = {steps}; try {near}"
            )
        for name, whole in (("rollout_length", cfg.rollout_length), ("minibatch_size", size)):
            if whole % sequence_length:
                raise ValueError(
                    f"algo.sequence_length={sequence_length} does not divide algo.{name}={whole}; try"
                    f" algo.{name}={whole + -whole % sequence_length}"
                )
        if size == 1:
            self.check_advantages(cfg, "algo.minibatch_size=1")
        return int(steps)

    @staticmethod
    def check_advantages(cfg: Any, given: str) -> None:
        """ValueError if the advantages of the single step that is `given` are to be normalised."""
        if getattr(cfg, "normalize_advantage", False):
            raise ValueError(
                f"{given} has no spread to normalise advantages by; type algo.normalize_advantage=false"
            )

    @staticmethod
    def check_value_lr(cfg: Any) -> None:
        """ValueError if a network that the policy shares is to have a learning rate for the value alone."""
        if cfg.shared_network and cfg.value_lr is not None:
            raise ValueError(
                "algo.value_lr needs a value network of its own; type algo.shared_network=false or"
                " algo.value_lr=null"
            )

    def discrete_actions(self, otherwise: str = "algo=ppo can act in it") -> gym.spaces.Discrete:
        """The action space. ValueError, with what to do `otherwise`, if it is not Discrete."""
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise ValueError(
                f"it needs a Discrete action space, and this one is {self.action_space}; {otherwise}"
            )
        return self.action_space

    def gradient_step(
        self,
        networks: nn.Module,
        loss: Loss,
        optimizer: Callable[..., Any],
        max_grad_norm: float | None = None,
        groups: Sequence[nn.Module] | None = None,
    ) -> GradientStep:
        """Steps that lower `loss(networks, *inputs)`; each of `groups` has a learning rate of its own."""
        options: dict[str, Any] = {"optimizer": optimizer, "max_grad_norm": max_grad_norm}
        return GradientStep(networks, groups or [networks], loss, **options, compile=self.compile)

    def replay(self, agent: Agent, cfg: Any) -> UniformReplay:
        """The replay memory of an agent's keys, for its actions."""
        obs = self.obs_space.shape, float32_or_uint8(self.obs_space), self.frame_stack
        learned = self.num_envs, cfg.gamma, cfg.n_step, cfg.learning_starts
        transitions = Transitions(*obs, agent.action_shape, agent.action_dtype, *learned, self.zero_padded)
        memory: UniformReplay = cfg.replay(transitions)
        return memory


Setting = AgentContext  # its earlier name


class Agent(ABC):
    """An algorithm, made from its context and its keys: `(context, cfg)`, where cfg is of its `Config`.

    A subclass sets these in its constructor and implements `act` and `learn`. Without a `Config` its keys
    are keywords.
    """

    # the dataclass of its keys; `network`, `optimizer` ... are functions that make them
    Config: type | None = None

    rollout_length: int  # T, steps of every env in one iteration
    columns: Sequence[str] = ()  # what `learn` reports
    parts: Mapping[str, Stateful]  # all that changes in training: what a checkpoint holds
    policy_parts: Sequence[str] = ()  # the names of the parts that acting needs
    playing: Sequence[str] = ()  # the earlier name of `policy_parts`
    replay: UniformReplay | None = None  # its memory, if it has one: a checkpoint keeps it in chunks
    action_shape: tuple[int, ...]  # of one action as `act` gives it
    action_dtype: Any

    @property
    def learned_parts(self) -> dict[str, Stateful]:
        """The parts that hold what was learned: all but optimizers and the replay memory. A fork starts with
        them, so a best file holds them too.
        """
        return {
            name: part
            for name, part in self.parts.items()
            if part is not self.replay
            and not (hasattr(part, "advance") or isinstance(part, torch.optim.Optimizer))
        }

    @abstractmethod
    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Actions [N, *action_shape] for observations [N, *obs_shape], and the recurrent state after them.

        With `explore` they are drawn with `rng`; without, they are what the policy thinks best. What it tells
        `learn` of the step may come third, by name, always the same names: `rollout.extras` holds it.
        """

    @abstractmethod
    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Make every update that this experience earns, counting them on the clock; return what to report."""

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, as a module that torch can export.

        Its inputs are obs [B, *obs_shape] as `act` takes them, and where it is recurrent the state [B, H]; it
        gives the actions, and the state after them. NotImplementedError: this algorithm has none.
        """
        raise NotImplementedError

    def initial_state(self, num_envs: int) -> Recurrent:
        """The recurrent state [N, H] where episodes begin."""
        return None
