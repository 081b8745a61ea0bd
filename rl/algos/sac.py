"""SAC (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications"): maximum entropy, off-policy,
continuous.

Every update makes one step for the critics, the actor and the temperature, all three from the weights before
it (algorithm 1 with its gradients taken at once): one loss, one backward pass, and compiled one graph.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl.algos.agent import Agent, Recurrent, Rollout, Setting
from rl.config.schedule import Schedule
from rl.learning.distributions import SquashedGaussian
from rl.learning.gradient_step import GradientStep, flatten_parameters
from rl.learning.networks.ensemble import ensemble, frozen
from rl.learning.networks.numpy_forward import NetworkFactory, numpy_forward
from rl.learning.normalize import ObsNormalizer
from rl.learning.replay import Batch, UniformReplay

# between the sum of the losses and the TD errors [B]
REPORT = ("grad_norm", "loss", "policy_loss", "q_mean", "entropy", "alpha")


class Networks(nn.Module):
    """All that is learned by gradients."""

    def __init__(
        self,
        network: NetworkFactory,
        obs_shape: tuple[int, ...],
        distribution: SquashedGaussian,
        alpha: float,
    ) -> None:
        super().__init__()
        obs_size, num_actions = int(np.prod(obs_shape)), distribution.num_actions
        self.critics = ensemble(network, 2, (obs_size + num_actions,), 1)
        self.actor = network(obs_shape, distribution.num_params)
        self.temperature = nn.ParameterDict({"log_alpha": torch.tensor([alpha]).log()})


class SAC(Agent):
    """Soft Q-learning with two critics, and an actor that follows the lower of them and is paid for its
    entropy.
    """

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
        target_entropy: float | None,
        target_tau: float,
        normalize_obs: bool,
        network: NetworkFactory,
        optimizer: Any,
        replay: Any,
    ) -> None:
        self.distribution = SquashedGaussian(setting.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype
        self.rollout_length, self.batch_size, self.learning_starts = (
            rollout_length,
            batch_size,
            learning_starts,
        )
        self.updates_per_frame = Fraction(str(updates_per_frame))
        self.lr, self.actor_lr, self.alpha_lr = lr, actor_lr or lr, alpha_lr or lr
        self.target_entropy = (
            -float(self.distribution.num_actions) if target_entropy is None else target_entropy
        )
        self.target_tau = target_tau
        self.clock, self.streams, self.device = setting.clock, setting.streams, setting.device

        obs_shape = setting.obs_space.shape
        networks, targets = (
            Networks(network, obs_shape, self.distribution, alpha).to(self.device) for _ in range(2)
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
        """Sampled actions, uniform ones before learning starts, or the policy's mode."""
        if explore and self.clock.frames < self.learning_starts:
            return self.distribution.box.uniform(len(obs), rng), state
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
        """What the loss takes, with the noise of the actions in obs and next_obs [2, B, A]."""
        obs, next_obs = batch.obs, batch.next_obs
        if self.obs_normalizer is not None:
            obs, next_obs = self.obs_normalizer(obs), self.obs_normalizer(next_obs)
        action = self.distribution.box.shrink(batch.action)
        noise = self.streams.minibatch.standard_normal((2, *action.shape), np.float32)
        arrays = (obs, action, batch.reward, batch.discount, next_obs, batch.weight, noise)
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
        noise: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Of critics (eq. 5), actor (eq. 7) and temperature (eq. 17, by its logarithm), none of which moves
        another's weights.

        What is reported besides the sum stands in the order of REPORT.
        """
        log_alpha = networks.temperature["log_alpha"].squeeze(0)
        alpha = log_alpha.detach().exp()
        flat_obs = obs.flatten(1)

        with torch.no_grad():
            next_action, next_log_prob = self.distribution.sample_with_log_prob(
                networks.actor(next_obs), noise[1]
            )
            # [2, B]
            next_q = self.target_critics(torch.cat([next_obs.flatten(1), next_action], -1)).squeeze(-1)
            target = reward + discount * (next_q.amin(0) - alpha * next_log_prob)
        error = networks.critics(torch.cat([flat_obs, action], -1)).squeeze(-1) - target
        critic_loss = 0.5 * (weight * error.square()).mean(-1).sum()

        new_action, log_prob = self.distribution.sample_with_log_prob(networks.actor(obs), noise[0])
        q = frozen(networks.critics)(torch.cat([flat_obs, new_action], -1)).squeeze(-1).amin(0)
        actor_loss = (alpha * log_prob - q).mean()
        entropy = -log_prob.detach().mean()
        temperature_loss = log_alpha * (entropy - self.target_entropy)

        loss = critic_loss + actor_loss + temperature_loss
        return loss, [critic_loss, actor_loss, q.mean(), entropy, alpha, error.detach().abs().mean(0)]

    @torch.no_grad()
    def _update_targets(self, tau: float) -> None:
        """target <- target + tau * (online - target)."""
        self.target_weights.lerp_(self.weights, tau)
