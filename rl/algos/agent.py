"""The agent: what every algorithm is to the loop, which knows no more of it than this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl.clock import Clock
from rl.envs.make import float32_or_uint8
from rl.learning.replay import Transitions, UniformReplay
from rl.state import Stateful, Streams

# [N, H], zero where an episode begins; None while nothing is recurrent
Recurrent = NDArray[np.float32] | None
Extras = Mapping[str, NDArray[Any]]  # what `act` tells `learn` of a step: arrays [N, ...] by name


@dataclass
class Rollout:
    """T steps of N environments. The arrays are used again by the next rollout: copy what must outlive
    `learn`.
    """

    obs: NDArray[Any]  # [T + 1, N, *obs_shape]; the last row is where the next rollout begins
    action: NDArray[Any]  # [T, N, *action_shape], before any clipping to the environment's bounds
    reward: NDArray[np.float32]  # [T, N]
    terminated: NDArray[np.bool_]  # [T, N]; worth 0 afterwards: the episode's end, or a lost life
    truncated: NDArray[np.bool_]  # [T, N]; the value of next_obs stands for the rest
    state: Recurrent = None  # [N, H] at the start
    # [T, N, ...] by name: what `act` returned of each step besides actions and states
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)
    # (t, n, obs) where an env was reset
    final_obs: list[tuple[int, int, NDArray[Any]]] = field(default_factory=list)

    @property
    def done(self) -> NDArray[np.bool_]:
        """[T, N]: terminated or truncated."""
        return self.terminated | self.truncated

    @property
    def next_obs(self) -> NDArray[Any]:
        """[T, N, *obs_shape]: the true successors, never an observation after a reset."""
        result = self.obs[1:].copy()
        for t, n, obs in self.final_obs:
            result[t, n] = obs
        return result

    def values(
        self,
        value_function: Callable[[NDArray[Any]], NDArray[np.float32]],
        known: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """V(s_t) and V(s'_t) of all steps, both [T, N], from a function of observations [B, *obs_shape].

        Every observation is evaluated once, and where an episode was truncated its last one too; those of
        V(s_t) that are `known` [T, N] are not. V(s'_t) has no meaning where the episode terminated.
        """
        t_plus_1, n = self.obs.shape[:2]
        if known is None:
            value = value_function(self.obs.reshape(-1, *self.obs.shape[2:])).reshape(t_plus_1, n)
        else:
            value = np.concatenate([known, value_function(self.obs[-1])[None]])
        next_value = value[1:].copy()
        cut = [(t, n, obs) for t, n, obs in self.final_obs if not self.terminated[t, n]]
        if cut:
            rows, envs, obs = zip(*cut, strict=True)
            next_value[list(rows), list(envs)] = value_function(np.stack(obs).astype(self.obs.dtype))
        return value[:-1], next_value


@dataclass(frozen=True)
class AgentContext:
    """What an agent is told about the run it is built for, besides its own keys."""

    obs_space: gym.spaces.Box
    action_space: gym.Space
    num_envs: int
    clock: Clock
    streams: Streams
    device: str
    compile: bool
    frame_stack: int = 1  # observations are so many frames, newest last, each step bringing one
    zero_padded: bool = False  # frames before an episode's first are zeros; else they are that one

    def batch_size(self, rollout_length: int, minibatch_size: int) -> int:
        """Steps of a rollout, over all envs. ValueError if minibatches of that size do not fill it."""
        steps = rollout_length * self.num_envs
        if steps % minibatch_size:
            near = min(
                (d for d in range(1, steps + 1) if steps % d == 0), key=lambda d: abs(d - minibatch_size)
            )
            raise ValueError(
                f"algo.minibatch_size={minibatch_size} does not divide rollout_length * num_envs ="
                f" {steps}; try {near}"
            )
        return steps

    def discrete_actions(self, otherwise: str = "algo=ppo can act in it") -> gym.spaces.Discrete:
        """The action space. ValueError, with what to do `otherwise`, if it is not Discrete."""
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise ValueError(
                f"it needs a Discrete action space, and this one is {self.action_space}; {otherwise}"
            )
        return self.action_space

    def transitions(self, agent: Agent, gamma: float, n_step: int, learning_starts: int) -> Transitions:
        """What a replay memory must know of them."""
        obs, action = (
            (self.obs_space.shape, float32_or_uint8(self.obs_space)),
            (agent.action_shape, agent.action_dtype),
        )
        return Transitions(
            *obs, self.frame_stack, *action, self.num_envs, gamma, n_step, learning_starts, self.zero_padded
        )


Setting = AgentContext  # its earlier name


class Agent(ABC):
    """An algorithm, made from its context and its keys: `(context, cfg)`, where cfg is of its `Config`.

    A subclass sets these in its constructor and implements `act` and `learn`. Without a `Config` its keys
    are keywords.
    """

    Config: type | None = (
        None  # the dataclass of its keys; `network`, `optimizer` ... are functions that make them
    )

    rollout_length: int  # T, steps of every env in one iteration
    columns: Sequence[str] = ()  # what `learn` reports
    parts: Mapping[str, Stateful]  # all that changes in training: what a checkpoint holds
    policy_parts: Sequence[str] = ()  # the names of the parts that acting needs: what a best file holds
    playing: Sequence[str] = ()  # the earlier name of `policy_parts`
    replay: UniformReplay | None = None  # its memory, if it has one: a checkpoint keeps it in chunks
    action_shape: tuple[int, ...]  # of one action as `act` gives it
    action_dtype: Any

    @abstractmethod
    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent] | tuple[NDArray[Any], Recurrent, Extras]:
        """Actions [N, *action_shape] for observations [N, *obs_shape], and the recurrent state after them.

        With `explore` they are drawn with `rng`; without, they are what the policy thinks best. What it tells
        `learn` of the step may come third, by name, always the same names: `rollout.extras` holds it.
        """

    @abstractmethod
    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Make every update that this experience earns, counting them on the clock; return what to report."""

    def initial_state(self, num_envs: int) -> Recurrent:
        """The recurrent state [N, H] where episodes begin."""
        return None
