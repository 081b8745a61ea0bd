"""Sarsa (Rummery & Niranjan 1994) with a network: on-policy learning of the values of the policy that
explores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss, smooth_l1_loss

from rl.algos.agent import Agent, Recurrent, Rollout, Setting
from rl.config.schedule import Schedule
from rl.learning.distributions import Exploration
from rl.learning.gradient_step import GradientStep
from rl.learning.networks.numpy_forward import NetworkFactory, numpy_forward
from rl.learning.normalize import ObsNormalizer
from rl.learning.returns import gae

REPORT = ("loss", "grad_norm", "q_mean")


class Sarsa(Agent):
    """Lowers the TD error of Q(s, a) to r + gamma * Q(s', a') (Sutton & Barto 2018, eq. 6.7).

    a' is what the policy does in s': the action of the next step, or one drawn for it where the rollout stops
    or a time limit cut the episode. With `td_lambda` above 0 the targets are lambda-returns (eq. 12.18 with
    action values).
    """

    columns = ("q_mean",)

    def __init__(
        self,
        setting: Setting,
        *,
        gamma: float,
        td_lambda: float,
        rollout_length: int,
        lr: Schedule,
        epsilon: Schedule | None,
        temperature: Schedule | None,
        loss: str,
        max_grad_norm: float | None,
        normalize_obs: bool,
        network: NetworkFactory,
        optimizer: Any,
    ) -> None:
        space = setting.discrete_actions()
        self.rollout_length, self.gamma, self.td_lambda = rollout_length, gamma, td_lambda
        self.lr, self.exploration = lr, Exploration(epsilon, temperature)
        self.td_loss = {"huber": smooth_l1_loss, "squared": mse_loss}[loss]
        self.clock, self.rng, self.device = setting.clock, setting.streams.minibatch, setting.device
        self.first_action, self.action_shape, self.action_dtype = int(space.start), (), np.int64

        obs_shape = setting.obs_space.shape
        self.q_network = network(obs_shape, int(space.n)).to(self.device)
        optimizing = {"optimizer": optimizer, "max_grad_norm": max_grad_norm, "compile": setting.compile}
        self.step = GradientStep(self.q_network, [self.q_network], self._loss, **optimizing)
        self.values = numpy_forward(self.q_network)
        self.obs_normalizer = ObsNormalizer(obs_shape) if normalize_obs else None

        self.parts = {"q_network": self.q_network, **self.step.parts}
        self.playing = ("q_network",)
        if self.obs_normalizer is not None:
            self.parts["obs_normalizer"] = self.obs_normalizer
            self.playing = ("q_network", "obs_normalizer")

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Epsilon-greedy or Boltzmann actions, or the best."""
        value = self.values(obs if self.obs_normalizer is None else self.obs_normalizer(obs))
        action = self.exploration.sample(value, self.clock.frames, rng) if explore else value.argmax(-1)
        return (action + self.first_action if self.first_action else action), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """One gradient step on the whole rollout."""
        frames = self.clock.frames
        lr, explore = self.lr(frames), self.exploration(frames - rollout.reward.size)  # the policy that acted
        self.step.set_lr(lr)
        values = self.step(*self._batch(rollout, explore))
        self.clock.updates += 1
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(rollout.obs[:-1])
        return dict(zip(REPORT, values.tolist(), strict=True)) | {"lr": lr, "explore": explore}

    def _batch(self, rollout: Rollout, explore: float) -> list[Tensor]:
        """Observations [B, ...], actions [B] and targets [B]."""
        rows, n = rollout.reward.shape
        obs = rollout.obs if self.obs_normalizer is None else self.obs_normalizer(rollout.obs)
        values = self.values(obs.reshape(-1, *obs.shape[2:])).reshape(rows + 1, n, -1)
        action = np.concatenate(
            [rollout.action - self.first_action, self.exploration.choose(values[-1], explore, self.rng)[None]]
        )
        value = np.take_along_axis(values, action[..., None], -1)[..., 0]  # [T + 1, N]: Q(s, a)
        next_value = value[1:].copy()
        cut = [(t, n, last) for t, n, last in rollout.final_obs if not rollout.terminated[t, n]]
        if cut:
            row, env, last = zip(*cut, strict=True)
            last_obs = np.stack(last).astype(rollout.obs.dtype)
            last_values = self.values(
                last_obs if self.obs_normalizer is None else self.obs_normalizer(last_obs)
            )
            last_action = self.exploration.choose(last_values, explore, self.rng)
            next_value[list(row), list(env)] = np.take_along_axis(last_values, last_action[:, None], -1)[:, 0]
        advantage = gae(
            rollout.reward,
            value[:-1],
            next_value,
            rollout.terminated,
            rollout.done,
            self.gamma,
            self.td_lambda,
        )
        target = (advantage + value[:-1]).astype(np.float32)
        return [
            torch.as_tensor(a.reshape(-1, *a.shape[2:]), device=self.device)
            for a in (obs[:-1], action[:-1], target)
        ]

    def _loss(
        self, q_network: Any, obs: Tensor, action: Tensor, target: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """What is reported besides the loss stands in the order of REPORT."""
        q = q_network(obs).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return self.td_loss(q, target), [q.detach().mean()]
