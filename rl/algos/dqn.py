"""DQN (Mnih et al. 2015): Q-learning from a replay memory with a target network.

With `double` it is Double DQN (van Hasselt et al. 2016), with `quantiles` QR-DQN (Dabney et al. 2018).
Dueling and noisy networks, the prioritised memory and n-step returns are parts and values:
conf/algo/rainbow.yaml.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import huber_loss, mse_loss

from rl.algos.agent import Agent, Recurrent, Rollout, Setting
from rl.config.schedule import Schedule
from rl.learning.distributions import Exploration
from rl.learning.gradient_step import GradientStep, flatten_parameters
from rl.learning.networks.noisy import noise_for
from rl.learning.networks.numpy_forward import NetworkFactory, numpy_forward
from rl.learning.normalize import ObsNormalizer
from rl.learning.replay import Batch, UniformReplay

REPORT = ("loss", "grad_norm", "q_mean")  # and then the TD errors [B], or of quantiles the losses [B]


class DQN(Agent):
    """Lowers the TD error of Q(s, a) to r + gamma * max Q'(s', .), where Q' is the target network (algorithm
    1).

    With `quantiles` it learns so many values of equal probability for each action's return, whose mean is
    Q(s, a).
    """

    columns = ("q_mean",)

    def __init__(
        self,
        setting: Setting,
        *,
        gamma: float,
        n_step: int,
        rollout_length: int,
        updates_per_frame: float,
        batch_size: int,
        learning_starts: int,
        lr: Schedule,
        epsilon: Schedule | None,
        temperature: Schedule | None,
        double: bool,
        quantiles: int | None,
        loss: str,
        kappa: float,
        target_every: int | None,
        target_tau: float,
        max_grad_norm: float | None,
        normalize_obs: bool,
        network: NetworkFactory,
        optimizer: Any,
        replay: Any,
    ) -> None:
        space = setting.discrete_actions()
        self.rollout_length, self.batch_size = rollout_length, batch_size
        self.updates_per_frame = Fraction(str(updates_per_frame))
        self.lr, self.exploration, self.double = lr, Exploration(epsilon, temperature), double
        self.td_loss: Callable[..., Tensor] = (
            functools.partial(huber_loss, delta=kappa) if loss == "huber" else mse_loss
        )
        self.target_every, self.target_tau = target_every, target_tau
        self.clock, self.streams, self.device = setting.clock, setting.streams, setting.device
        self.first_action, self.action_shape, self.action_dtype = int(space.start), (), np.int64

        obs_shape = setting.obs_space.shape
        if quantiles is not None:
            network = functools.partial(network, quantiles=quantiles)
        self.q_network, self.target_network = (
            network(obs_shape, int(space.n)).to(self.device) for _ in range(2)
        )
        optimizing = {"optimizer": optimizer, "max_grad_norm": max_grad_norm, "compile": setting.compile}
        loss_of = self._loss if quantiles is None else self._quantile_loss
        self.step = GradientStep(self.q_network, [self.q_network], loss_of, **optimizing)
        self.weights, self.target_weights = self.step.flats[0], flatten_parameters(self.target_network)
        self._update_target(1.0)
        # [B, A] or [B, A, quantiles]
        outputs, self.target_values = numpy_forward(self.q_network), numpy_forward(self.target_network)
        self.values = outputs if quantiles is None else lambda *inputs: outputs(*inputs).mean(-1)  # [B, A]
        self.noise = noise_for(self.q_network)
        self.obs_normalizer = ObsNormalizer(obs_shape) if normalize_obs else None
        self.replay: UniformReplay = replay(
            setting.transitions(self, gamma=gamma, n_step=n_step, learning_starts=learning_starts)
        )

        self.parts = {
            "q_network": self.q_network,
            "target_network": self.target_network,
            **self.step.parts,
            "replay": self.replay,
        }
        self.playing = ("q_network",)
        if self.obs_normalizer is not None:
            self.parts["obs_normalizer"] = self.obs_normalizer
            self.playing = ("q_network", "obs_normalizer")

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Epsilon-greedy or Boltzmann actions by values with noise of each env's own, if the network is
        noisy; or the best.
        """
        noise = self.noise(len(obs), rng) if explore else ()
        value = self.values(obs if self.obs_normalizer is None else self.obs_normalizer(obs), *noise)
        action = self.exploration.sample(value, self.clock.frames, rng) if explore else value.argmax(-1)
        return (action + self.first_action if self.first_action else action), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Remember the rollout, and make the gradient steps that it earned."""
        frames, replay = self.clock.frames, self.replay
        replay.add(rollout)
        lr = self.lr(frames)
        self.step.set_lr(lr)
        due = replay.updates_due(frames, rollout.reward.size, self.updates_per_frame)
        total = torch.zeros(len(REPORT), device=self.device)
        for update in due:
            batch = replay.sample(self.batch_size, self.streams.replay, frames)
            values = self.step(*self._inputs(batch))
            replay.update_priorities(batch.number, values[len(REPORT) :])
            total += values[: len(REPORT)]
            if self._target_is_due(update):
                self._update_target(self.target_tau)
        self.clock.updates += len(due)
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(rollout.obs[:-1])
        report = dict(zip(REPORT, (total / len(due)).tolist(), strict=True)) if due else {}
        return report | {"lr": lr, "explore": self.exploration(frames)}

    def _inputs(self, batch: Batch) -> list[Tensor]:
        """Observations, and in columns [B, 1] actions, targets (of quantiles [B, quantiles]) and weights;
        then noise for a noisy network.

        The target is r + gamma * max Q'(s', .), or as `double` has it. Every evaluation of a noisy network
        has noise of its own, one for the batch (Fortunato et al. 2018, section 3.1).
        """
        obs, next_obs = batch.obs, batch.next_obs
        if self.obs_normalizer is not None:
            obs, next_obs = self.obs_normalizer(obs), self.obs_normalizer(next_obs)
        noise = functools.partial(self.noise, 1, self.streams.minibatch)
        outputs = self.target_values(next_obs, *noise())
        if self.double:
            value = self.values(next_obs, *noise())
        else:
            value = outputs if outputs.ndim == 2 else outputs.mean(-1)
        next_value = outputs[np.arange(len(next_obs)), value.argmax(-1)].reshape(len(next_obs), -1)
        columns = batch.action - self.first_action, batch.reward, batch.discount, batch.weight
        action, reward, discount, weight = (array[:, np.newaxis] for array in columns)
        inputs = obs, action, reward + discount * next_value, weight, *noise()
        return [torch.as_tensor(array, device=self.device) for array in inputs]

    def _loss(
        self, q_network: Any, obs: Tensor, action: Tensor, target: Tensor, weight: Tensor, *noise: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """What is reported besides the loss stands in the order of REPORT."""
        q = q_network(obs, *noise).gather(-1, action)
        loss = (weight * self.td_loss(q, target, reduction="none")).mean()
        q = q.detach()
        return loss, [q.mean(), (target - q).squeeze(-1)]

    def _quantile_loss(
        self, q_network: Any, obs: Tensor, action: Tensor, target: Tensor, weight: Tensor, *noise: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The same for quantiles; what counts as TD error is the loss."""
        quantiles = q_network(obs, *noise).take_along_dim(action.unsqueeze(-1), 1).squeeze(1)
        loss = quantile_loss(quantiles, target, self.td_loss)
        return (weight.squeeze(-1) * loss).mean(), [quantiles.detach().mean(), loss.detach()]

    def _target_is_due(self, update: int) -> bool:
        """Whether `target_every` frames are full between the frame that earned the update before and this
        one's.
        """
        if self.target_every is None:
            return True
        updates, frames = self.updates_per_frame.as_integer_ratio()
        earned_at, before = (-(-number * frames // updates) for number in (update, update - 1))
        return earned_at // self.target_every != before // self.target_every

    @torch.no_grad()
    def _update_target(self, tau: float) -> None:
        """target <- target + tau * (online - target)."""
        if tau == 1.0:
            self.target_weights.copy_(self.weights)
        else:
            self.target_weights.lerp_(self.weights, tau)


def quantile_loss(quantiles: Tensor, target: Tensor, loss: Callable[..., Tensor]) -> Tensor:
    """sum_i E_j[|tau_i - 1{u < 0}| L(u)] of u = target_j - quantile_i, tau_i = (i + 1/2) / N (Dabney et al.
    2018, eq. 10).

    From quantiles [B, N] and samples of the target [B, M], all equally likely, to [B].
    """
    tau = (torch.arange(quantiles.shape[-1], device=quantiles.device) + 0.5) / quantiles.shape[-1]
    quantile, sample = torch.broadcast_tensors(quantiles.unsqueeze(-1), target.unsqueeze(-2))  # [B, N, M]
    share = (tau.unsqueeze(-1) - (sample < quantile).float()).abs()
    return (share * loss(quantile, sample, reduction="none")).mean(-1).sum(-1)
