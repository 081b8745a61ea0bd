"""A2C, the synchronous A3C (Mnih et al. 2016): one update from each short rollout of many environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.algos.agent import Agent, AgentContext, Recurrent, Rollout
from rl.config.schema.algos import A2CConfig
from rl.learning.distributions import distribution_for
from rl.learning.gradient_step import GradientStep
from rl.learning.networks.policy import ActorCritic
from rl.learning.normalize import obs_normalizer, reward_normalizer
from rl.learning.returns import explained_variance, gae


class A2C(Agent):
    """Policy gradient with the advantages of a learned value function, a value loss and an entropy bonus.

    With `gae_lambda` 1 the returns are the paper's n-step returns: the rewards up to the rollout's end and
    the value of what follows. Below 1 they are the lambda-returns of generalised advantage estimation.
    """

    Config = A2CConfig
    columns = ("value_loss", "policy_loss", "explained_variance")

    def __init__(self, context: AgentContext, cfg: A2CConfig) -> None:
        if cfg.normalize_advantage and cfg.rollout_length * context.num_envs == 1:
            raise ValueError(
                "algo.rollout_length=1 of one env has no spread to normalise advantages by; type"
                " algo.normalize_advantage=false"
            )
        if cfg.shared_network and cfg.value_lr is not None:
            raise ValueError(
                "algo.value_lr needs a value network of its own; type algo.shared_network=false or"
                " algo.value_lr=null"
            )
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.clock, self.device = context.clock, context.device
        self.distribution = distribution_for(context.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype

        obs_shape, shared = context.obs_space.shape, cfg.shared_network
        self.networks = ActorCritic(cfg.network, obs_shape, self.distribution, shared=shared).to(self.device)
        groups = [self.networks] if cfg.value_lr is None else [*self.networks.children()]
        optimizing: dict[str, Any] = {"optimizer": cfg.optimizer, "max_grad_norm": cfg.max_grad_norm}
        self.step = GradientStep(self.networks, groups, self._loss, **optimizing, compile=context.compile)
        self.policy_params, self.value = self.networks.numpy_policy(), self.networks.numpy_value()
        self.obs_normalizer = obs_normalizer(obs_shape, cfg.normalize_obs)
        self.reward_normalizer = reward_normalizer(context.num_envs, cfg.gamma, cfg.normalize_reward)

        normalizers = {**self.obs_normalizer.parts, **self.reward_normalizer.parts}
        self.parts = {"networks": self.networks, **self.step.parts, **normalizers}
        self.policy_parts = ("networks", *self.obs_normalizer.parts)

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Sampled actions, or the policy's mode."""
        params = self.policy_params(self.obs_normalizer(obs))
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """One gradient step on the whole rollout."""
        cfg, frames = self.cfg, self.clock.frames
        obs, action, advantage, target, explained = self._batch(rollout)
        lr, entropy_coef = cfg.lr(frames), cfg.entropy_coef(frames)
        self.step.set_lr(lr, *([] if cfg.value_lr is None else [cfg.value_lr(frames)]))
        self.step(obs, action, advantage, target, entropy_coef)
        self.clock.updates += 1
        self.obs_normalizer.update(rollout.obs[:-1])
        return self.step.report() | explained | {"lr": lr, "entropy_coef": entropy_coef}

    def _loss(
        self, networks: Any, obs: Tensor, action: Tensor, advantage: Tensor, target: Tensor, entropy_coef: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradients of algorithm S3, with the entropy bonus of section 4."""
        params, value = networks(obs)
        log_prob, entropy = self.distribution.log_prob_and_entropy(params, action)
        entropy = entropy.mean()
        if self.cfg.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss = -(log_prob * advantage).mean()
        value_loss = (value - target).square().mean()
        loss = policy_loss + self.cfg.value_coef * value_loss - entropy_coef * entropy
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    def _batch(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, float]]:
        """Observations, actions, advantages and value targets, each [B, ...].

        The rewards' statistics take in this rollout first; the observations' only after the update, so that
        the policy is judged as it acted.
        """
        self.reward_normalizer.update(rollout.reward, rollout.done)
        reward, inputs = self.reward_normalizer(rollout.reward), self.obs_normalizer(rollout.obs[:-1])
        value, next_value = rollout.values(lambda obs: self.value(self.obs_normalizer(obs)))
        ends = rollout.terminated, rollout.done
        advantage = gae(reward, value, next_value, *ends, self.cfg.gamma, self.cfg.gae_lambda)
        target = advantage + value

        obs, action = (
            torch.as_tensor(a.reshape(-1, *a.shape[2:]), device=self.device) for a in (inputs, rollout.action)
        )
        known = np.stack([advantage, target]).astype(np.float32).reshape(2, -1)
        advantages, targets = torch.as_tensor(known, device=self.device)
        return obs, action, advantages, targets, explained_variance(advantage, target)
