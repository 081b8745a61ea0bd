"""PPO (Schulman et al. 2017): several epochs on each rollout, with an objective that stops paying beyond the
clip range.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.algos.agent import Agent, Recurrent, Rollout, Setting
from rl.config.schedule import Schedule
from rl.learning.distributions import distribution_for
from rl.learning.gradient_step import GradientStep, shuffled_epochs
from rl.learning.losses import clipped_policy_loss, clipped_value_loss
from rl.learning.networks.cnn import channels_last, select
from rl.learning.networks.numpy_forward import NetworkFactory
from rl.learning.networks.policy import ActorCritic
from rl.learning.normalize import ObsNormalizer, RewardNormalizer
from rl.learning.returns import explained_variance, gae

REPORT = ("loss", "grad_norm", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


class PPO(Agent):
    """Clipped surrogate objective (eq. 7) with generalised advantages, a value loss and an entropy bonus (eq.
    9).
    """

    columns = ("value_loss", "policy_loss", "approx_kl", "clip_fraction", "explained_variance")

    def __init__(
        self,
        setting: Setting,
        *,
        gamma: float,
        gae_lambda: float,
        rollout_length: int,
        minibatch_size: int,
        epochs: int,
        lr: Schedule,
        value_lr: Schedule | None,
        clip_range: Schedule,
        value_clip_range: Schedule | None,
        target_kl: float | None,
        entropy_coef: Schedule,
        value_coef: float,
        max_grad_norm: float | None,
        normalize_advantage: bool,
        normalize_obs: bool,
        normalize_reward: bool,
        recompute_advantage: bool,
        log_std_init: float,
        shared_network: bool,
        network: NetworkFactory,
        optimizer: Any,
    ) -> None:
        self.batch_size = setting.batch_size(rollout_length, minibatch_size)
        if normalize_advantage and minibatch_size == 1:
            raise ValueError(
                "algo.minibatch_size=1 has no spread to normalise advantages by; type algo.normalize_advantage=false"
            )
        if shared_network and value_lr is not None:
            raise ValueError(
                "algo.value_lr needs a value network of its own; type algo.shared_network=false or algo.value_lr=null"
            )
        self.rollout_length, self.minibatch_size, self.epochs = rollout_length, minibatch_size, epochs
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.lr, self.value_lr, self.entropy_coef = lr, value_lr, entropy_coef
        self.clip_range, self.value_clip_range, self.target_kl = clip_range, value_clip_range, target_kl
        self.value_coef, self.normalize_advantage = value_coef, normalize_advantage
        self.recompute_advantage = recompute_advantage
        self.clock, self.rng, self.device = setting.clock, setting.streams.minibatch, setting.device

        self.distribution = distribution_for(setting.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype
        obs_shape = setting.obs_space.shape
        networks = ActorCritic(
            network, obs_shape, self.distribution, shared=shared_network, log_std_init=log_std_init
        ).to(self.device)
        groups = [networks] if value_lr is None else [*networks.children()]
        self.networks = networks
        self.step = GradientStep(
            networks,
            groups,
            self._loss,
            optimizer=optimizer,
            max_grad_norm=max_grad_norm,
            compile=setting.compile,
        )
        self.policy_params, self.value = networks.numpy_policy(), networks.numpy_value()
        self.both = networks.numpy_forward() if shared_network else None
        # what a shared network gave
        self.acted: deque[tuple[NDArray[np.float32], NDArray[np.float32]]] = deque(maxlen=rollout_length)
        self.obs_normalizer = ObsNormalizer(obs_shape) if normalize_obs else None
        self.reward_normalizer = RewardNormalizer(setting.num_envs, gamma) if normalize_reward else None

        self.parts = {"networks": networks, **self.step.parts}
        self.playing = ("networks",)
        if self.obs_normalizer is not None:
            self.parts["obs_normalizer"] = self.obs_normalizer
            self.playing = ("networks", "obs_normalizer")
        if self.reward_normalizer is not None:
            self.parts["reward_normalizer"] = self.reward_normalizer

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Sampled actions, or the policy's mode."""
        inputs = obs if self.obs_normalizer is None else self.obs_normalizer(obs)
        if explore and self.both is not None:
            self.acted.append(self.both(inputs))
            params = self.acted[-1][0]
        else:
            params = self.policy_params(inputs)
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """`epochs` passes over the rollout in shuffled minibatches, fewer if the policy moves beyond
        `target_kl`.
        """
        obs, action, numbers, explained, refresh = self._batch(rollout)
        frames, step = self.clock.frames, self.step
        lr, entropy_coef = self.lr(frames), self.entropy_coef(frames)
        step.set_lr(lr, *([] if self.value_lr is None else [self.value_lr(frames)]))
        value_clip = None if self.value_clip_range is None else step.scalar(self.value_clip_range(frames))
        coefs = step.scalar(self.clip_range(frames)), value_clip, step.scalar(entropy_coef)
        report, updates = shuffled_epochs(
            step,
            (obs, action, numbers),
            coefs,
            count=self.batch_size,
            minibatch=self.minibatch_size,
            epochs=self.epochs,
            target_kl=self.target_kl,
            rng=self.rng,
            report=REPORT,
            between=refresh if self.recompute_advantage else lambda: None,
        )
        self.clock.updates += updates
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(rollout.obs[:-1])
        return report | explained | {"lr": lr, "entropy_coef": entropy_coef}

    @torch.no_grad()
    def _batch(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, dict[str, float], Callable[[], None]]:
        """Observations [B, ...], actions [B, ...] and what the loss knows of each step [4, B], all of the
        policy as it is; last, what computes advantages, targets and values anew, in place.

        The rewards' statistics take in this rollout first; the observations' only after the updates, so that
        the policy is judged as it acted.
        """
        reward, normalize = rollout.reward, self.obs_normalizer
        if self.reward_normalizer is not None:
            self.reward_normalizer.update(reward, rollout.done)
            reward = self.reward_normalizer(reward)
        acted = list(self.acted)[-len(reward) :]
        self.acted.clear()
        known = np.stack([value for _, value in acted]) if acted else None  # [T, N]
        value_of = self.value if normalize is None else lambda obs: self.value(normalize(obs))

        def steps(known: NDArray[np.float32] | None = None) -> tuple[NDArray[Any], Tensor]:
            value, next_value = rollout.values(value_of, known)
            advantage = gae(
                reward, value, next_value, rollout.terminated, rollout.done, self.gamma, self.gae_lambda
            )
            result = np.stack([advantage, advantage + value, value])
            return result, torch.as_tensor(result.astype(np.float32).reshape(3, -1), device=self.device)

        (advantage, target, _), first = steps(known)

        inputs = rollout.obs[:-1] if normalize is None else normalize(rollout.obs[:-1])
        obs, action = (
            torch.as_tensor(a.reshape(-1, *a.shape[2:]), device=self.device) for a in (inputs, rollout.action)
        )
        params = (
            torch.as_tensor(np.concatenate([params for params, _ in acted]), device=self.device)
            if acted
            else self.networks.policy(obs)
        )
        log_prob = self.distribution.log_prob(params, action)
        numbers = torch.cat([first, log_prob.unsqueeze(0)])
        explained = explained_variance(advantage, target)
        return channels_last(obs), action, numbers, explained, lambda: numbers[:3].copy_(steps()[1])

    def _loss(
        self,
        networks: Any,
        obs: Tensor,
        action: Tensor,
        numbers: Tensor,
        index: Tensor,
        clip_range: Any,
        value_clip_range: Any,
        entropy_coef: Any,
    ) -> tuple[Tensor, list[Tensor]]:
        """The minibatch `index` [M] of the batch; what is reported besides the loss stands in the order of
        REPORT.
        """
        advantage, target, old_value, old_log_prob = numbers.index_select(1, index).unbind()
        params, value = networks(select(obs, index))
        log_prob, entropy = self.distribution.log_prob_and_entropy(params, action.index_select(0, index))
        entropy = entropy.mean()
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss, approx_kl, clip_fraction = clipped_policy_loss(
            log_prob, old_log_prob, advantage, clip_range
        )
        value_loss = clipped_value_loss(value, old_value, target, value_clip_range)
        loss = policy_loss + self.value_coef * value_loss - entropy_coef * entropy
        return loss, [policy_loss, value_loss, entropy, approx_kl, clip_fraction]
