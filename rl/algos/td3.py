"""TD3 (Fujimoto et al. 2018): a deterministic actor, the lower of two critics, delayed and smoothed.

With one critic, no delay and no target noise it is DDPG (Lillicrap et al. 2016): conf/algo/ddpg.yaml.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.algos.agent import Agent, Recurrent, Rollout, Setting
from rl.config.schedule import Schedule
from rl.learning.distributions import ActionBox
from rl.learning.gradient_step import GradientStep, flatten_parameters
from rl.learning.networks.ensemble import ensemble, frozen
from rl.learning.networks.numpy_forward import NetworkFactory, numpy_forward
from rl.learning.normalize import ObsNormalizer
from rl.learning.replay import Batch, UniformReplay

CRITIC_REPORT = ("loss", "grad_norm", "q_mean")  # and then the TD errors [B]


class TD3(Agent):
    """Every `policy_delay`-th update moves the actor and the targets too (algorithm 1).

    The updates are counted by the frames that earned them, so that the delay needs no counter of its own.
    What the networks see and give as actions is in [-1, 1]^A; the replay memory holds them as the environment
    took them.
    """

    columns = ("policy_loss", "q_mean")

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
        num_critics: int,
        exploration_noise: Schedule,
        target_noise: float,
        target_noise_clip: float,
        policy_delay: int,
        target_tau: float,
        normalize_obs: bool,
        network: NetworkFactory,
        optimizer: Any,
        replay: Any,
    ) -> None:
        self.box = ActionBox(setting.action_space)
        self.action_shape, self.action_dtype = self.box.shape, np.float32
        self.rollout_length, self.batch_size, self.learning_starts = (
            rollout_length,
            batch_size,
            learning_starts,
        )
        self.updates_per_frame = Fraction(str(updates_per_frame))
        self.lr, self.actor_lr = lr, actor_lr or lr
        self.exploration_noise, self.target_noise, self.target_noise_clip = (
            exploration_noise,
            target_noise,
            target_noise_clip,
        )
        self.policy_delay, self.target_tau = policy_delay, target_tau
        self.clock, self.streams, self.device = setting.clock, setting.streams, setting.device

        obs_shape = setting.obs_space.shape
        critic_shape = (int(np.prod(obs_shape)) + self.box.size,)
        self.actor, self.target_actor = (network(obs_shape, self.box.size).to(self.device) for _ in range(2))
        self.critics, self.target_critics = (
            ensemble(network, num_critics, critic_shape, 1).to(self.device) for _ in range(2)
        )
        optimizing = {"optimizer": optimizer, "max_grad_norm": None, "compile": setting.compile}
        self.critic_step = GradientStep(self.critics, [self.critics], self._critic_loss, **optimizing)
        self.actor_step = GradientStep(self.actor, [self.actor], self._actor_loss, **optimizing)
        self.weights = [self.critic_step.flats[0], self.actor_step.flats[0]]
        self.target_weights = [flatten_parameters(self.target_critics), flatten_parameters(self.target_actor)]
        self._update_targets(1.0)
        self.mean_action = numpy_forward(self.actor)
        self.obs_normalizer = ObsNormalizer(obs_shape) if normalize_obs else None
        self.replay: UniformReplay = replay(
            setting.transitions(self, gamma=gamma, n_step=n_step, learning_starts=learning_starts)
        )

        networks = {
            "critics": self.critics,
            "actor": self.actor,
            "target_critics": self.target_critics,
            "target_actor": self.target_actor,
        }
        optimizers = {
            "critic_optimizer": self.critic_step.optimizers[0],
            "actor_optimizer": self.actor_step.optimizers[0],
        }
        self.parts: dict[str, Any] = {**networks, **optimizers, "replay": self.replay}
        self.playing = ("actor",)
        if self.obs_normalizer is not None:
            self.parts["obs_normalizer"] = self.obs_normalizer
            self.playing = ("actor", "obs_normalizer")

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """The actor's actions, with normal noise where it explores; uniform ones before learning starts."""
        if explore and self.clock.frames < self.learning_starts:
            return self.box.uniform(len(obs), rng), state
        action = np.tanh(self.mean_action(obs if self.obs_normalizer is None else self.obs_normalizer(obs)))
        if explore:
            noise = rng.standard_normal(action.shape, np.float32) * np.float32(
                self.exploration_noise(self.clock.frames)
            )
            action = (action + noise).clip(-1, 1)
        return self.box.stretch(action), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Remember the rollout, and make the updates that it earned."""
        frames, replay = self.clock.frames, self.replay
        replay.add(rollout)
        lr = self.lr(frames)
        self.critic_step.set_lr(lr)
        self.actor_step.set_lr(self.actor_lr(frames))
        due = replay.updates_due(frames, rollout.reward.size, self.updates_per_frame)
        total, policy_loss, delayed = (
            torch.zeros(len(CRITIC_REPORT), device=self.device),
            torch.zeros((), device=self.device),
            0,
        )
        for update in due:
            batch = replay.sample(self.batch_size, self.streams.replay, frames)
            obs, *others = self._inputs(batch)
            values = self.critic_step(obs, *others)
            replay.update_priorities(batch.number, values[len(CRITIC_REPORT) :])
            total += values[: len(CRITIC_REPORT)]
            if update % self.policy_delay == 0:
                policy_loss += self.actor_step(obs)[0]
                self._update_targets(self.target_tau)
                delayed += 1
        self.clock.updates += len(due)
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(rollout.obs[:-1])
        report = dict(zip(CRITIC_REPORT, (total / len(due)).tolist(), strict=True)) if due else {}
        if delayed:
            report["policy_loss"] = float(policy_loss) / delayed
        return report | {"lr": lr, "explore": self.exploration_noise(frames)}

    def _inputs(self, batch: Batch) -> list[Tensor]:
        """What the critics' loss takes, with the noise of the target's actions [B, A]."""
        obs, next_obs = batch.obs, batch.next_obs
        if self.obs_normalizer is not None:
            obs, next_obs = self.obs_normalizer(obs), self.obs_normalizer(next_obs)
        action = self.box.shrink(batch.action)
        noise = self.streams.minibatch.standard_normal(action.shape, np.float32) * np.float32(
            self.target_noise
        )
        noise = noise.clip(-self.target_noise_clip, self.target_noise_clip)
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
        """Squared errors against the lower target critic at the target actor's smoothed action."""
        with torch.no_grad():
            next_action = (self.target_actor(next_obs).tanh() + noise).clamp(-1, 1)
            # [2, B]
            next_q = self.target_critics(torch.cat([next_obs.flatten(1), next_action], -1)).squeeze(-1)
            target = reward + discount * next_q.amin(0)
        q = critics(torch.cat([obs.flatten(1), action], -1)).squeeze(-1)
        error = q - target
        return (weight * error.square()).mean(-1).sum(), [q.detach().mean(), error.detach().abs().mean(0)]

    def _actor_loss(self, actor: Any, obs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """-Q of the first critic; its weights stay constant."""
        action = actor(obs).tanh()
        return -frozen(self.critics)(torch.cat([obs.flatten(1), action], -1), first=1).mean(), []

    @torch.no_grad()
    def _update_targets(self, tau: float) -> None:
        """target <- target + tau * (online - target)."""
        for target, weights in zip(self.target_weights, self.weights, strict=True):
            target.lerp_(weights, tau)
