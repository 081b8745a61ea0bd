"""A2C, the synchronous A3C (Mnih et al. 2016): one update from each short rollout of many environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.algos.agent import Agent, Recurrent, Rollout, Setting
from rl.config.schedule import Schedule
from rl.learning.distributions import distribution_for
from rl.learning.gradient_step import GradientStep
from rl.learning.networks.numpy_forward import NetworkFactory
from rl.learning.networks.policy import ActorCritic
from rl.learning.normalize import ObsNormalizer, RewardNormalizer
from rl.learning.returns import explained_variance, gae

REPORT = ("loss", "grad_norm", "policy_loss", "value_loss", "entropy")


class A2C(Agent):
    """Policy gradient with the advantages of a learned value function, a value loss and an entropy bonus.

    With `gae_lambda` 1 the returns are the paper's n-step returns: the rewards up to the rollout's end and
    the value of what follows. Below 1 they are the lambda-returns of generalised advantage estimation.
    """

    columns = ("value_loss", "policy_loss", "explained_variance")

    def __init__(
        self,
        setting: Setting,
        *,
        gamma: float,
        gae_lambda: float,
        rollout_length: int,
        lr: Schedule,
        value_lr: Schedule | None,
        entropy_coef: Schedule,
        value_coef: float,
        max_grad_norm: float | None,
        normalize_advantage: bool,
        normalize_obs: bool,
        normalize_reward: bool,
        shared_network: bool,
        network: NetworkFactory,
        optimizer: Any,
    ) -> None:
        if normalize_advantage and rollout_length * setting.num_envs == 1:
            raise ValueError(
                "algo.rollout_length=1 of one env has no spread to normalise advantages by; type algo.normalize_advantage=false"
            )
        if shared_network and value_lr is not None:
            raise ValueError(
                "algo.value_lr needs a value network of its own; type algo.shared_network=false or algo.value_lr=null"
            )
        self.rollout_length = rollout_length
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.lr, self.value_lr, self.entropy_coef = lr, value_lr, entropy_coef
        self.value_coef, self.normalize_advantage = value_coef, normalize_advantage
        self.clock, self.device = setting.clock, setting.device

        self.distribution = distribution_for(setting.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype
        obs_shape = setting.obs_space.shape
        networks = ActorCritic(network, obs_shape, self.distribution, shared=shared_network).to(self.device)
        groups = [networks] if value_lr is None else [*networks.children()]
        self.step = GradientStep(
            networks,
            groups,
            self._loss,
            optimizer=optimizer,
            max_grad_norm=max_grad_norm,
            compile=setting.compile,
        )
        self.policy_params, self.value = networks.numpy_policy(), networks.numpy_value()
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
        params = self.policy_params(obs if self.obs_normalizer is None else self.obs_normalizer(obs))
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """One gradient step on the whole rollout."""
        obs, action, advantage, target, explained = self._batch(rollout)
        frames, step = self.clock.frames, self.step
        lr, entropy_coef = self.lr(frames), self.entropy_coef(frames)
        step.set_lr(lr, *([] if self.value_lr is None else [self.value_lr(frames)]))
        values = step(obs, action, advantage, target, step.scalar(entropy_coef))
        self.clock.updates += 1
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(rollout.obs[:-1])
        return (
            dict(zip(REPORT, values.tolist(), strict=True))
            | explained
            | {"lr": lr, "entropy_coef": entropy_coef}
        )

    def _batch(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, float]]:
        """Observations, actions, advantages and value targets, each [B, ...].

        The rewards' statistics take in this rollout first; the observations' only after the update, so that
        the policy is judged as it acted.
        """
        reward, normalize = rollout.reward, self.obs_normalizer
        if self.reward_normalizer is not None:
            self.reward_normalizer.update(reward, rollout.done)
            reward = self.reward_normalizer(reward)
        value, next_value = rollout.values(
            self.value if normalize is None else lambda obs: self.value(normalize(obs))
        )
        advantage = gae(
            reward, value, next_value, rollout.terminated, rollout.done, self.gamma, self.gae_lambda
        )
        target = advantage + value

        inputs = rollout.obs[:-1] if normalize is None else normalize(rollout.obs[:-1])
        obs, action = (
            torch.as_tensor(a.reshape(-1, *a.shape[2:]), device=self.device) for a in (inputs, rollout.action)
        )
        steps = torch.as_tensor(
            np.stack([advantage, target]).astype(np.float32).reshape(2, -1), device=self.device
        )
        return obs, action, steps[0], steps[1], explained_variance(advantage, target)

    def _loss(
        self, networks: Any, obs: Tensor, action: Tensor, advantage: Tensor, target: Tensor, entropy_coef: Any
    ) -> tuple[Tensor, list[Tensor]]:
        """What is reported besides the loss stands in the order of REPORT."""
        params, value = networks(obs)
        log_prob, entropy = self.distribution.log_prob_and_entropy(params, action)
        entropy = entropy.mean()
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss = -(log_prob * advantage).mean()
        value_loss = (value - target).square().mean()
        loss = policy_loss + self.value_coef * value_loss - entropy_coef * entropy
        return loss, [policy_loss, value_loss, entropy]
