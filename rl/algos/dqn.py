"""DQN (Mnih et al. 2015): Q-learning from a replay memory with a target network.

With `double` it is Double DQN (van Hasselt et al. 2016), with `quantiles` QR-DQN (Dabney et al. 2018). Other
networks, the prioritised memory and n-step returns are parts and values: conf/algo/rainbow.yaml.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss, mse_loss

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import DQNConfig
from rl.learning.exploration import Exploration
from rl.learning.gradient_step import TargetWeights
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.masked import per_action
from rl.learning.networks.noisy import noise_for
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.replay import Batch, UniformReplay


class DQN(Agent):
    """Lowers the TD error of Q(s, a) to r + gamma * max Q'(s', .), Q' the target network (algorithm 1).

    With `quantiles`: so many equally likely values of each action's return, whose mean is Q(s, a).
    """

    Config, masks = DQNConfig, True
    columns = ("q_mean",)

    def __init__(self, context: AgentContext, cfg: DQNConfig) -> None:
        space = context.discrete_actions()
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.updates_per_frame = Fraction(str(cfg.updates_per_frame))
        self.exploration = Exploration(cfg.epsilon, cfg.temperature)
        self.td_loss = functools.partial(huber_loss, delta=cfg.kappa) if cfg.loss == "huber" else mse_loss
        self.clock, self.streams, self.device = context.clock, context.streams, context.device
        self.first_action, self.action_shape, self.action_dtype = int(space.start), (), np.int64

        obs_shape = context.obs_shape
        options = {"quantiles": cfg.quantiles} if cfg.quantiles else {}
        self.q_network, self.target_network = (
            per_action(cfg.network, obs_shape, int(space.n), **options).to(self.device) for _ in range(2)
        )
        self.step = context.gradient_step(self.q_network, self._loss, cfg.optimizer, cfg.max_grad_norm)
        self.target_weights = TargetWeights(self.step.flats[0], self.target_network)
        outputs = numpy_forward(self.q_network)  # [B, A] or [B, A, quantiles]; values [B, A]
        self.values = outputs if cfg.quantiles is None else lambda *inputs: outputs(*inputs).mean(-1)
        self.noise = noise_for(self.q_network)
        self.obs_normalizer = context.obs_normalizer(cfg.normalize_obs)
        self.replay: UniformReplay = context.replay(self, cfg)
        learned = {"q_network": self.q_network, "target_network": self.target_network, **self.step.parts}
        self.parts = {**learned, "replay": self.replay, **self.obs_normalizer.parts}
        self.policy_parts = ("q_network", *self.obs_normalizer.parts)

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Epsilon-greedy or Boltzmann actions, from a noisy network with noise for each env; or the best."""
        noise = self.noise(len(obs), rng) if explore else ()
        value = self.values(self.obs_normalizer(obs), *noise)
        action = self.exploration.sample(value, self.clock.frames, rng) if explore else value.argmax(-1)
        return (action + self.first_action if self.first_action else action), state

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, in torch."""

        def best(outputs: Tensor) -> Tensor:
            return (outputs.mean(-1) if self.cfg.quantiles else outputs).argmax(-1) + self.first_action

        return Greedy(self.obs_normalizer.in_torch, self.q_network, best)

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
                self.target_weights.update(cfg.target_tau)
        self.clock.updates += len(due)
        self.obs_normalizer.update(rollout.obs[:-1])
        return self.step.report() | {"lr": lr, "explore": self.exploration(frames)}

    def _loss(self, q_network: Any, batch: Batch, *noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of the TD errors (algorithm 1); that of quantiles counts as TD error itself."""
        q, target = self._chosen(q_network, batch, noise)
        if self.cfg.quantiles:
            loss = error = quantile_loss(q, target, self.td_loss)
        else:
            loss, error = self.td_loss(q, target, reduction="none"), target - q.detach()
        report = {"q_mean": q.detach().mean(), "td_error": self.step.whole(error.detach().flatten())}
        return (batch.weight.view_as(loss) * loss).mean(), report

    def _chosen(self, q_network: Any, batch: Batch, noise: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The quantiles of the actions taken, and those of their targets, both [B, quantiles]; or [B, 1].

        Every evaluation of a noisy network has noise of its own (Fortunato et al. 2018, section 3.1).
        """
        with torch.no_grad():
            outputs = self.target_network(batch.next_obs, *noise[:1])
            value = q_network(batch.next_obs, *noise[1:2]) if self.cfg.double else outputs
            best = (value.mean(-1) if self.cfg.quantiles else value).argmax(-1)
            target = batch.reward[:, None] + batch.discount[:, None] * _of_action(outputs, best)
        return _of_action(q_network(batch.obs, *noise[-1:]), batch.action), target

    def _inputs(self, batch: Batch) -> list[Any]:
        """The batch for the loss, and the noise of each evaluation of a noisy network."""
        obs, next_obs = self.obs_normalizer(batch.obs), self.obs_normalizer(batch.next_obs)
        action = batch.action - self.first_action if self.first_action else batch.action
        batch = batch._replace(obs=obs, action=action, next_obs=next_obs)
        inputs = [self.step.share(batch.to(self.device))]
        for _ in range(3 if self.cfg.double else 2):
            inputs += [torch.as_tensor(x, device=self.device) for x in self.noise(1, self.streams.minibatch)]
        return inputs

    def _target_is_due(self, update: int) -> bool:
        """Whether `target_every` frames are full since the frame that earned the update before."""
        if (target_every := self.cfg.target_every) is None:
            return True
        updates, frames = self.updates_per_frame.as_integer_ratio()
        earned_at, before = (-(-number * frames // updates) for number in (update, update - 1))
        return earned_at // target_every != before // target_every


def _of_action(outputs: Tensor, action: Tensor) -> Tensor:
    """[B, quantiles] from [B, A, quantiles] by actions [B]; or [B, 1] from [B, A]."""
    if outputs.ndim == 2:
        return outputs.gather(1, action[:, None])
    return outputs.take_along_dim(action[:, None, None], 1).squeeze(1)


def quantile_loss(quantiles: Tensor, target: Tensor, loss: Callable[..., Tensor]) -> Tensor:
    """sum_i E_j[|tau_i - 1{u < 0}| L(u)], u = target_j - quantile_i, tau_i = (i + 1/2) / N: [B], from
    quantiles [B, N] and samples of the target [B, M], all equally likely (Dabney et al. 2018, eq. 10).
    """
    tau = (torch.arange(quantiles.shape[-1], device=quantiles.device) + 0.5) / quantiles.shape[-1]
    quantile, sample = torch.broadcast_tensors(quantiles.unsqueeze(-1), target.unsqueeze(-2))  # [B, N, M]
    share = (tau.unsqueeze(-1) - (sample < quantile).float()).abs()
    return (share * loss(quantile, sample, reduction="none")).mean(-1).sum(-1)
