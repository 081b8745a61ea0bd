"""What an agent is told about the run it is built for, and what several algorithms build from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from torch import nn

from rl.clock import Clock
from rl.group import ALONE, Group
from rl.learning.distributions import BY_POLICY
from rl.learning.features import Features, OneBox
from rl.learning.gradient_step import GradientStep, Loss
from rl.learning.masks import WithMask, mask_size
from rl.learning.normalize import NullNormalizer, ObsNormalizer, obs_normalizer
from rl.learning.replay import Transitions, UniformReplay
from rl.spaces import obs_dtype, observed
from rl.state import Streams


@dataclass(frozen=True)
class AgentContext:
    """What an agent is told about the run it is built for, besides its own keys; and what several build."""

    obs_space: gym.Space
    action_space: gym.Space
    num_envs: int
    clock: Clock
    streams: Streams
    device: str
    compile: bool
    frame_stack: int = 1  # observations are so many frames, newest last, each step bringing one
    zero_padded: bool = False  # frames before an episode's first are zeros; else they are that one
    stacked_keys: Sequence[str] | None = None  # the leaves that are stacks; all where None
    group: Group = ALONE  # the processes that train together
    # gives what computes the rewards of an env with goals (`rl.envs.goals`), or raises ValueError
    goal_functions: Callable[[], dict[str, Any]] | None = None

    @property
    def obs_shape(self) -> Sequence[int]:
        """The shape of what networks are given of an observation: a Box's own, else (F,), of a vector."""
        leaves = observed(self.obs_space)
        only = next(iter(leaves.values()))
        if len(leaves) == 1 and isinstance(only, gym.spaces.Box):
            return only.shape
        return Features(leaves, normalize=False).shape

    def obs_normalizer(self, enabled: bool) -> ObsNormalizer | NullNormalizer | OneBox | Features | WithMask:
        """What makes observations, as rollouts and replay memories hold them, the inputs of networks.

        It normalises them if that is `enabled`: a Box, and of other spaces each leaf that is a float Box.
        An action mask is added as the last columns (`rl.learning.masks`).
        """
        inputs = self._inputs(enabled)
        return WithMask(inputs, self.mask_size) if self.mask_size else inputs

    def _inputs(self, normalize: bool) -> ObsNormalizer | NullNormalizer | OneBox | Features:
        leaves = observed(self.obs_space)
        (name, only), *_ = leaves.items()
        if len(leaves) > 1 or not isinstance(only, gym.spaces.Box):
            return Features(leaves, normalize=normalize)
        plain = obs_normalizer(only.shape, normalize)
        return OneBox(name, plain) if name else plain

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

    @property
    def mask_size(self) -> int:
        """How many actions the observations' mask is of; 0 if they have none."""
        return mask_size(self.obs_space, self.action_space)

    def discrete_actions(self, otherwise: str = BY_POLICY) -> gym.spaces.Discrete:
        """The action space. ValueError, with what to do `otherwise`, if it is not Discrete."""
        if not isinstance(self.action_space, gym.spaces.Discrete):
            others = otherwise if isinstance(self.action_space, gym.spaces.Box) else BY_POLICY
            raise ValueError(
                f"it needs a Discrete action space, and this one is {self.action_space}; {others}"
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
        return GradientStep(
            networks, groups or [networks], loss, **options, compile=self.compile, group=self.group
        )

    def replay(self, agent: Any, cfg: Any) -> UniformReplay:
        """The replay memory of an agent's keys, for its actions."""
        obs = self.obs_space.shape or (), obs_dtype(self.obs_space), self.frame_stack
        learned = self.num_envs, cfg.gamma, cfg.n_step, cfg.learning_starts
        rest = self.zero_padded, self.stacked_keys, self.goal_functions
        transitions = Transitions(*obs, agent.action_shape, agent.action_dtype, *learned, *rest)
        memory: UniformReplay = cfg.replay(transitions)
        return memory
