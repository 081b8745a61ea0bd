"""CrossQ (Bhatt et al. 2024): SAC without target networks; batch renormalisation takes their place.

What the critics make of (s, a) and of (s', a') is normalised by the statistics of both together, in one pass.
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
from rl.learning.gradient_step import GradientStep
from rl.learning.networks.ensemble import frozen
from rl.learning.networks.numpy_forward import NetworkFactory, numpy_forward
from rl.learning.normalize import ObsNormalizer
from rl.learning.replay import Batch, UniformReplay

CRITIC_REPORT = ("loss", "grad_norm", "q_mean")  # and then the TD errors [B] and the batch's moments
# after the sum of the losses and the gradient's norm; then the moments
ACTOR_REPORT = ("policy_loss", "entropy", "alpha")


class Policy(nn.Module):
    """The actor and the temperature."""

    def __init__(self, actor: nn.Module, alpha: float) -> None:
        super().__init__()
        self.actor: Any = actor
        self.temperature = nn.ParameterDict({"log_alpha": torch.tensor([alpha]).log()})


class CrossQ(Agent):
    """Two critics that see both ends of a transition at once; every `policy_delay`-th update moves the actor
    too (algorithm 1).

    The updates are counted by the frames that earned them, so that the delay needs no counter of its own.
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
        policy_delay: int,
        normalize_obs: bool,
        network: NetworkFactory,
        critic_network: NetworkFactory,
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
        self.policy_delay = policy_delay
        self.clock, self.streams, self.device = setting.clock, setting.streams, setting.device

        for key, factory in (("network", network), ("critic_network", critic_network)):
            if not hasattr(getattr(factory, "func", factory), "by_batch"):
                raise ValueError(
                    f"it needs batch renormalisation: type algo.{key}._target_=rl.networks.BatchRenormMLP"
                )
        obs_shape = setting.obs_space.shape
        critic_shape = (int(np.prod(obs_shape)) + self.distribution.num_actions,)
        self.critics: Any = critic_network(critic_shape, 1, members=2).to(self.device)
        self.policy = Policy(network(obs_shape, self.distribution.num_params, members=1), alpha).to(
            self.device
        )
        optimizing = {"optimizer": optimizer, "max_grad_norm": None, "compile": setting.compile}
        self.critic_step = GradientStep(self.critics, [self.critics], self._critic_loss, **optimizing)
        self.policy_step = GradientStep(
            self.policy, [self.policy.actor, self.policy.temperature], self._policy_loss, **optimizing
        )
        self.params = numpy_forward(self.policy.actor)
        self.obs_normalizer = ObsNormalizer(obs_shape) if normalize_obs else None
        self.replay: UniformReplay = replay(
            setting.transitions(self, gamma=gamma, n_step=n_step, learning_starts=learning_starts)
        )

        optimizers = [*self.critic_step.optimizers, *self.policy_step.optimizers]
        self.parts = {
            "critics": self.critics,
            "actor": self.policy.actor,
            "temperature": self.policy.temperature,
            **dict(
                zip(("critic_optimizer", "actor_optimizer", "temperature_optimizer"), optimizers, strict=True)
            ),
            "replay": self.replay,
        }
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
        params = self.params(obs if self.obs_normalizer is None else self.obs_normalizer(obs))[0]
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Remember the rollout, and make the updates that it earned."""
        frames, replay = self.clock.frames, self.replay
        replay.add(rollout)
        lr = self.lr(frames)
        self.critic_step.set_lr(lr)
        self.policy_step.set_lr(self.actor_lr(frames), self.alpha_lr(frames))
        due = replay.updates_due(frames, rollout.reward.size, self.updates_per_frame)
        critics, policy = (
            torch.zeros(len(names), device=self.device) for names in (CRITIC_REPORT, ACTOR_REPORT)
        )
        delayed = 0
        for update in due:
            batch = replay.sample(self.batch_size, self.streams.replay, frames)
            obs, *others, noise = self._inputs(batch)
            values, td_error, moments = self.critic_step(obs, *others, noise[1]).tensor_split(
                (len(critics), len(critics) + len(obs))
            )
            critics += values
            replay.update_priorities(batch.number, td_error)
            self.critics.follow(moments)
            if update % self.policy_delay == 0:
                values, moments = self.policy_step(obs, noise[0])[2:].tensor_split((len(policy),))
                policy += values
                self.policy.actor.follow(moments)
                delayed += 1
        self.clock.updates += len(due)
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(rollout.obs[:-1])
        report = dict(zip(CRITIC_REPORT, (critics / len(due)).tolist(), strict=True)) if due else {}
        if delayed:
            report |= dict(zip(ACTOR_REPORT, (policy / delayed).tolist(), strict=True))
        return report | {"lr": lr}

    def _inputs(self, batch: Batch) -> list[Tensor]:
        """What the losses take; the noise of the actions in obs and next_obs [2, B, A] comes last."""
        obs, next_obs = batch.obs, batch.next_obs
        if self.obs_normalizer is not None:
            obs, next_obs = self.obs_normalizer(obs), self.obs_normalizer(next_obs)
        action = self.distribution.box.shrink(batch.action)
        noise = self.streams.minibatch.standard_normal((2, *action.shape), np.float32)
        arrays = (obs, action, batch.reward, batch.discount, next_obs, batch.weight, noise)
        return [torch.as_tensor(a, device=self.device) for a in arrays]

    def _critic_loss(
        self,
        critics: Any,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_obs: Tensor,
        weight: Tensor,
        noise: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Squared errors against the critics themselves, at the action that the actor, by its running
        statistics, draws next.
        """
        alpha = self.policy.temperature["log_alpha"].detach().exp()
        with torch.no_grad():
            next_action, next_log_prob = self.distribution.sample_with_log_prob(
                self.policy.actor(next_obs)[0], noise
            )
        here, there = (torch.cat([x.flatten(1), a], -1) for x, a in ((obs, action), (next_obs, next_action)))
        both, moments = critics.by_batch(torch.cat([here, there]))
        q, next_q = both.squeeze(-1).chunk(2, -1)  # [2, B] each
        target = reward + discount * (next_q.detach().amin(0) - alpha * next_log_prob)
        error = q - target
        loss = 0.5 * (weight * error.square()).mean(-1).sum()
        return loss, [q.detach().mean(), error.detach().abs().mean(0), moments]

    def _policy_loss(self, policy: Any, obs: Tensor, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Of actor and temperature. The critics judge by their running statistics, and stay constant."""
        log_alpha = policy.temperature["log_alpha"].squeeze(0)
        alpha = log_alpha.detach().exp()
        params, moments = policy.actor.by_batch(obs)
        action, log_prob = self.distribution.sample_with_log_prob(params[0], noise)
        q = frozen(self.critics)(torch.cat([obs.flatten(1), action], -1)).squeeze(-1).amin(0)
        actor_loss = (alpha * log_prob - q).mean()
        entropy = -log_prob.detach().mean()
        loss = actor_loss + log_alpha * (entropy - self.target_entropy)
        return loss, [actor_loss, entropy, alpha, moments]
