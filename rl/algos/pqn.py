"""PQN (Gallici et al. 2024): Q-learning from many environments at once, with neither a replay memory nor a
target network.

What makes them dispensable is a network with layer normalisation: conf/algo/pqn.yaml.
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
from rl.learning.gradient_step import GradientStep, shuffled_epochs
from rl.learning.networks.cnn import channels_last, select
from rl.learning.networks.numpy_forward import NetworkFactory, numpy_forward
from rl.learning.normalize import ObsNormalizer
from rl.learning.returns import gae

REPORT = ("loss", "grad_norm", "q_mean")


class PQN(Agent):
    """Several epochs on each rollout towards its Q(lambda) returns (Peng & Williams 1996), of steps t = 0 ...
    T - 1:

    R_t = r_t + gamma * (lambda * R_{t+1} + (1 - lambda) * max Q(s'_t, .)), where r_t + gamma * max Q(s'_t, .)
    stands for the last.
    """

    columns = ("q_mean",)

    def __init__(
        self,
        setting: Setting,
        *,
        gamma: float,
        td_lambda: float,
        rollout_length: int,
        minibatch_size: int,
        epochs: int,
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
        self.batch_size = setting.batch_size(rollout_length, minibatch_size)
        self.rollout_length, self.minibatch_size, self.epochs = rollout_length, minibatch_size, epochs
        self.gamma, self.td_lambda = gamma, td_lambda
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
        """`epochs` passes over the rollout in shuffled minibatches."""
        frames = self.clock.frames
        lr, explore = self.lr(frames), self.exploration(frames - rollout.reward.size)  # the policy that acted
        self.step.set_lr(lr)
        report, updates = shuffled_epochs(
            self.step,
            self._batch(rollout),
            (),
            count=self.batch_size,
            minibatch=self.minibatch_size,
            epochs=self.epochs,
            rng=self.rng,
            report=REPORT,
        )
        self.clock.updates += updates
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(rollout.obs[:-1])
        return report | {"lr": lr, "explore": explore}

    def _batch(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [B, ...], actions [B] and targets [B].

        The returns are generalised advantages of V = max Q, and V.
        """
        normalize = (lambda obs: obs) if self.obs_normalizer is None else self.obs_normalizer
        value, next_value = rollout.values(lambda obs: self.values(normalize(obs)).max(-1))
        advantage = gae(
            rollout.reward, value, next_value, rollout.terminated, rollout.done, self.gamma, self.td_lambda
        )
        batch = (
            normalize(rollout.obs[:-1]),
            rollout.action - self.first_action,
            (advantage + value).astype(np.float32),
        )
        obs, action, target = (
            torch.as_tensor(a.reshape(-1, *a.shape[2:]), device=self.device) for a in batch
        )
        return channels_last(obs), action, target

    def _loss(
        self, q_network: Any, obs: Tensor, action: Tensor, target: Tensor, index: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The minibatch `index` [M] of the batch; what is reported besides the loss stands in the order of
        REPORT.
        """
        q = q_network(select(obs, index)).gather(-1, action.index_select(0, index).unsqueeze(-1)).squeeze(-1)
        return self.td_loss(q, target.index_select(0, index)), [q.detach().mean()]
