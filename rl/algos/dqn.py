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

from rl.algos.agent import Agent, AgentContext, Recurrent, Rollout
from rl.config.schema.algos import DQNConfig
from rl.learning.distributions import Exploration
from rl.learning.gradient_step import GradientStep, flatten_parameters
from rl.learning.networks.noisy import noise_for
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.normalize import obs_normalizer
from rl.learning.replay import Batch, UniformReplay


class DQN(Agent):
    """Lowers the TD error of Q(s, a) to r + gamma * max Q'(s', .), where Q' is the target network (algorithm
    1).

    With `quantiles` it learns so many values of equal probability for each action's return, whose mean is
    Q(s, a).
    """

    Config = DQNConfig
    columns = ("q_mean",)

    def __init__(self, context: AgentContext, cfg: DQNConfig) -> None:
        space = context.discrete_actions()
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.updates_per_frame = Fraction(str(cfg.updates_per_frame))
        self.exploration = Exploration(cfg.epsilon, cfg.temperature)
        self.td_loss = functools.partial(huber_loss, delta=cfg.kappa) if cfg.loss == "huber" else mse_loss
        self.clock, self.streams, self.device = context.clock, context.streams, context.device
        self.first_action, self.action_shape, self.action_dtype = int(space.start), (), np.int64

        obs_shape, options = (
            context.obs_space.shape,
            {} if cfg.quantiles is None else {"quantiles": cfg.quantiles},
        )
        self.q_network, self.target_network = (
            cfg.network(obs_shape, int(space.n), **options).to(self.device) for _ in range(2)
        )
        optimizing: dict[str, Any] = {
            "optimizer": cfg.optimizer,
            "max_grad_norm": cfg.max_grad_norm,
            "compile": context.compile,
        }
        loss = self._loss if cfg.quantiles is None else self._quantile_loss
        self.step = GradientStep(self.q_network, [self.q_network], loss, **optimizing)
        self.weights, self.target_weights = self.step.flats[0], flatten_parameters(self.target_network)
        self._update_target(1.0)
        # [B, A] or [B, A, quantiles]
        outputs, self.target_values = numpy_forward(self.q_network), numpy_forward(self.target_network)
        self.values = (
            outputs if cfg.quantiles is None else lambda *inputs: outputs(*inputs).mean(-1)
        )  # [B, A]
        self.noise = noise_for(self.q_network)
        self.obs_normalizer = obs_normalizer(obs_shape, cfg.normalize_obs)
        self.replay: UniformReplay = cfg.replay(
            context.transitions(self, cfg.gamma, cfg.n_step, cfg.learning_starts)
        )

        learned = {"q_network": self.q_network, "target_network": self.target_network, **self.step.parts}
        self.parts = {**learned, "replay": self.replay, **self.obs_normalizer.parts}
        self.policy_parts = ("q_network", *self.obs_normalizer.parts)

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Epsilon-greedy or Boltzmann actions by values with noise of each env's own, if the network is
        noisy; or the best.
        """
        noise = self.noise(len(obs), rng) if explore else ()
        value = self.values(self.obs_normalizer(obs), *noise)
        action = self.exploration.sample(value, self.clock.frames, rng) if explore else value.argmax(-1)
        return (action + self.first_action if self.first_action else action), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Remember the rollout, and make the gradient steps that it earned."""
        cfg, frames, replay = self.cfg, self.clock.frames, self.replay
        replay.add(rollout)
        lr = cfg.lr(frames)
        self.step.set_lr(lr)
        due = replay.updates_due(frames, rollout.reward.size, self.updates_per_frame)
        for update in due:
            batch = replay.sample(cfg.batch_size, self.streams.replay, frames)
            replay.update_priorities(batch.number, self.step(*self._inputs(batch))["td_error"])
            if self._target_is_due(update):
                self._update_target(cfg.target_tau)
        self.clock.updates += len(due)
        self.obs_normalizer.update(rollout.obs[:-1])
        return self.step.report() | {"lr": lr, "explore": self.exploration(frames)}

    def _loss(
        self, q_network: Any, obs: Tensor, action: Tensor, target: Tensor, weight: Tensor, *noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of the TD errors (algorithm 1)."""
        q = q_network(obs, *noise).gather(-1, action)
        loss = (weight * self.td_loss(q, target, reduction="none")).mean()
        q = q.detach()
        return loss, {"q_mean": q.mean(), "td_error": (target - q).squeeze(-1)}

    def _quantile_loss(
        self, q_network: Any, obs: Tensor, action: Tensor, target: Tensor, weight: Tensor, *noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same for quantiles; what counts as TD error is the loss."""
        quantiles = q_network(obs, *noise).take_along_dim(action.unsqueeze(-1), 1).squeeze(1)
        loss = quantile_loss(quantiles, target, self.td_loss)
        report = {"q_mean": quantiles.detach().mean(), "td_error": loss.detach()}
        return (weight.squeeze(-1) * loss).mean(), report

    def _inputs(self, batch: Batch) -> list[Tensor]:
        """Observations, and in columns [B, 1] actions, targets (of quantiles [B, quantiles]) and weights;
        then noise for a noisy network.

        The target is r + gamma * max Q'(s', .), or as `double` has it. Every evaluation of a noisy network
        has noise of its own, one for the batch (Fortunato et al. 2018, section 3.1).
        """
        obs, next_obs = self.obs_normalizer(batch.obs), self.obs_normalizer(batch.next_obs)
        noise = functools.partial(self.noise, 1, self.streams.minibatch)
        outputs = self.target_values(next_obs, *noise())
        if self.cfg.double:
            value = self.values(next_obs, *noise())
        else:
            value = outputs if outputs.ndim == 2 else outputs.mean(-1)
        next_value = outputs[np.arange(len(next_obs)), value.argmax(-1)].reshape(len(next_obs), -1)
        columns = batch.action - self.first_action, batch.reward, batch.discount, batch.weight
        action, reward, discount, weight = (array[:, np.newaxis] for array in columns)
        inputs = obs, action, reward + discount * next_value, weight, *noise()
        return [torch.as_tensor(array, device=self.device) for array in inputs]

    def _target_is_due(self, update: int) -> bool:
        """Whether `target_every` frames are full between the frame that earned the update before and this
        one's.
        """
        target_every = self.cfg.target_every
        if target_every is None:
            return True
        updates, frames = self.updates_per_frame.as_integer_ratio()
        earned_at, before = (-(-number * frames // updates) for number in (update, update - 1))
        return earned_at // target_every != before // target_every

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
