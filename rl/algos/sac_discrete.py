"""SAC for discrete actions (Christodoulou 2019): what SAC draws, this sums over all actions.

Every update makes one step for the critics, the actor and the temperature, all three from the weights before
it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl.algos.agent import Agent, Recurrent, Rollout, Setting
from rl.config.schedule import Schedule
from rl.learning.distributions import Categorical
from rl.learning.gradient_step import GradientStep, flatten_parameters
from rl.learning.networks.ensemble import ensemble
from rl.learning.networks.numpy_forward import NetworkFactory, numpy_forward
from rl.learning.normalize import ObsNormalizer
from rl.learning.replay import Batch, UniformReplay

# between the sum of the losses and the TD errors [B]
REPORT = ("grad_norm", "loss", "policy_loss", "q_mean", "entropy", "alpha")


class Networks(nn.Module):
    """All that is learned by gradients."""

    def __init__(
        self, network: NetworkFactory, obs_shape: tuple[int, ...], num_actions: int, alpha: float
    ) -> None:
        super().__init__()
        self.critics = ensemble(network, 2, obs_shape, num_actions)
        self.actor = network(obs_shape, num_actions)
        self.temperature = nn.ParameterDict({"log_alpha": torch.tensor([alpha]).log()})


class DiscreteSAC(Agent):
    """Soft Q-learning with two critics, and an actor whose probabilities follow the lower of them."""

    columns = ("policy_loss", "q_mean", "alpha")

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
        actor_lr: Schedule | None,
        alpha_lr: Schedule | None,
        alpha: float,
        target_entropy_ratio: float,
        target_tau: float,
        normalize_obs: bool,
        network: NetworkFactory,
        optimizer: Any,
        replay: Any,
    ) -> None:
        space = setting.discrete_actions("algo=sac can act in a continuous one")
        self.num_actions = int(space.n)
        self.distribution = Categorical(self.num_actions, int(space.start))
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype
        self.rollout_length, self.batch_size, self.learning_starts = (
            rollout_length,
            batch_size,
            learning_starts,
        )
        self.updates_per_frame = Fraction(str(updates_per_frame))
        self.lr, self.actor_lr, self.alpha_lr = lr, actor_lr or lr, alpha_lr or lr
        self.target_entropy = target_entropy_ratio * math.log(self.num_actions)
        self.target_tau = target_tau
        self.clock, self.streams, self.device = setting.clock, setting.streams, setting.device

        obs_shape = setting.obs_space.shape
        networks, targets = (
            Networks(network, obs_shape, self.num_actions, alpha).to(self.device) for _ in range(2)
        )
        groups = [networks.critics, networks.actor, networks.temperature]
        self.networks, self.target_critics = networks, targets.critics
        self.step = GradientStep(
            networks, groups, self._loss, optimizer=optimizer, max_grad_norm=None, compile=setting.compile
        )
        self.weights, self.target_weights = self.step.flats[0], flatten_parameters(self.target_critics)
        self._update_targets(1.0)
        self.params = numpy_forward(networks.actor)
        self.obs_normalizer = ObsNormalizer(obs_shape) if normalize_obs else None
        self.replay: UniformReplay = replay(
            setting.transitions(self, gamma=gamma, n_step=n_step, learning_starts=learning_starts)
        )

        optimizers = dict(
            zip(
                ("critic_optimizer", "actor_optimizer", "temperature_optimizer"),
                self.step.optimizers,
                strict=True,
            )
        )
        learned = {"critics": networks.critics, "actor": networks.actor, "temperature": networks.temperature}
        self.parts = {**learned, "target_critics": self.target_critics, **optimizers, "replay": self.replay}
        self.playing = ("actor",)
        if self.obs_normalizer is not None:
            self.parts["obs_normalizer"] = self.obs_normalizer
            self.playing = ("actor", "obs_normalizer")

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Sampled actions, uniform ones before learning starts, or the most likely."""
        if explore and self.clock.frames < self.learning_starts:
            return rng.integers(self.num_actions, size=len(obs)) + self.distribution.start, state
        params = self.params(obs if self.obs_normalizer is None else self.obs_normalizer(obs))
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Remember the rollout, and make the updates that it earned."""
        frames, replay = self.clock.frames, self.replay
        replay.add(rollout)
        lrs = self.lr(frames), self.actor_lr(frames), self.alpha_lr(frames)
        self.step.set_lr(*lrs)
        due = replay.updates_due(frames, rollout.reward.size, self.updates_per_frame)
        total = torch.zeros(len(REPORT), device=self.device)
        for _ in due:
            batch = replay.sample(self.batch_size, self.streams.replay, frames)
            values = self.step(*self._inputs(batch))[1:]
            replay.update_priorities(batch.number, values[len(REPORT) :])
            total += values[: len(REPORT)]
            self._update_targets(self.target_tau)
        self.clock.updates += len(due)
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(rollout.obs[:-1])
        report = dict(zip(REPORT, (total / len(due)).tolist(), strict=True)) if due else {}
        return report | {"lr": lrs[0]}

    def _inputs(self, batch: Batch) -> list[Tensor]:
        """What the loss takes."""
        obs, next_obs = batch.obs, batch.next_obs
        if self.obs_normalizer is not None:
            obs, next_obs = self.obs_normalizer(obs), self.obs_normalizer(next_obs)
        arrays = (
            obs,
            batch.action - self.distribution.start,
            batch.reward,
            batch.discount,
            next_obs,
            batch.weight,
        )
        return [torch.as_tensor(a, device=self.device) for a in arrays]

    def _loss(
        self,
        networks: Any,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_obs: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Of critics (eq. 3), actor (eq. 12) and temperature (eq. 11, by its logarithm), none of which moves
        another's weights.

        What is reported besides the sum stands in the order of REPORT.
        """
        log_alpha = networks.temperature["log_alpha"].squeeze(0)
        alpha = log_alpha.detach().exp()

        with torch.no_grad():
            next_log_prob = networks.actor(next_obs).log_softmax(-1)
            next_q = self.target_critics(next_obs).amin(0)
            # eq. 10
            target = reward + discount * (next_log_prob.exp() * (next_q - alpha * next_log_prob)).sum(-1)
        q = networks.critics(obs)  # [2, B, A]
        error = q.gather(-1, action.expand(2, -1).unsqueeze(-1)).squeeze(-1) - target
        critic_loss = 0.5 * (weight * error.square()).mean(-1).sum()

        log_prob = networks.actor(obs).log_softmax(-1)
        prob, lower_q = log_prob.exp(), q.detach().amin(0)
        actor_loss = (prob * (alpha * log_prob - lower_q)).sum(-1).mean()
        entropy = -(prob * log_prob).sum(-1).mean().detach()
        temperature_loss = log_alpha * (entropy - self.target_entropy)

        loss = critic_loss + actor_loss + temperature_loss
        return loss, [critic_loss, actor_loss, lower_q.mean(), entropy, alpha, error.detach().abs().mean(0)]

    @torch.no_grad()
    def _update_targets(self, tau: float) -> None:
        """target <- target + tau * (online - target)."""
        self.target_weights.lerp_(self.weights, tau)
