"""A2C, the synchronous A3C (Mnih et al. 2016): one update from each short rollout of many environments."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import A2CConfig
from rl.learning.distributions import distribution_for
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.policy import ActorCritic
from rl.learning.normalize import reward_normalizer
from rl.learning.returns import explained_variance, gae
from rl.learning.rollout import flat_tensors


class A2C(Agent):
    """Policy gradient with the advantages of a learned value function, a value loss and an entropy bonus.

    With `gae_lambda` 1 the returns are the paper's n-step returns: the rewards up to the rollout's end and
    the value of what follows. Below 1 they are the lambda-returns of generalised advantage estimation.
    """

    Config, masks = A2CConfig, True
    columns = ("value_loss", "policy_loss", "explained_variance")

    def __init__(self, context: AgentContext, cfg: A2CConfig) -> None:
        context.check_value_lr(cfg)
        if cfg.rollout_length * context.num_envs == 1:
            context.check_advantages(cfg, "algo.rollout_length=1 of one env")
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.clock, self.device = context.clock, context.device
        self.distribution = distribution_for(context.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype

        obs_shape, shared = context.obs_shape, cfg.shared_network
        self.networks = ActorCritic(cfg.network, obs_shape, self.distribution, shared=shared).to(self.device)
        groups = [self.networks] if cfg.value_lr is None else [*self.networks.children()]
        self.step = context.gradient_step(self.networks, self._loss, cfg.optimizer, cfg.max_grad_norm, groups)
        self.policy_params, self.value = self.networks.numpy_policy(), self.networks.numpy_value()
        self.obs_normalizer = context.obs_normalizer(cfg.normalize_obs)
        self.reward_normalizer = reward_normalizer(context.num_envs, cfg.gamma, cfg.normalize_reward)

        normalizers = {**self.obs_normalizer.parts, **self.reward_normalizer.parts}
        self.parts = {"networks": self.networks, **self.step.parts, **normalizers}
        self.policy_parts = ("networks", *self.obs_normalizer.parts)

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Sampled actions, or the policy's mode."""
        params = self.policy_params(self.obs_normalizer(obs))
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, in torch."""
        return Greedy(self.obs_normalizer.in_torch, self.networks.policy, self.distribution.mode_in_torch)

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """One gradient step on the whole rollout."""
        cfg, frames = self.cfg, self.clock.frames
        batch, explained = self._batch(rollout)
        lr, entropy_coef = cfg.lr(frames), cfg.entropy_coef(frames)
        self.step.set_lr(lr, *([] if cfg.value_lr is None else [cfg.value_lr(frames)]))
        self.step(*batch, entropy_coef)
        self.clock.updates += 1
        self.obs_normalizer.update(rollout.obs[:-1])
        return self.step.report() | explained | {"lr": lr, "entropy_coef": entropy_coef}

    def _loss(
        self, networks: Any, obs: Tensor, action: Tensor, advantage: Tensor, target: Tensor, entropy_coef: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradients of algorithm S3, with the entropy bonus of section 4."""
        if self.cfg.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        obs, action, advantage, target = self.step.share((obs, action, advantage, target))
        params, value = networks(obs)
        log_prob, entropy = self.distribution.log_prob_and_entropy(params, action)
        entropy = entropy.mean()
        policy_loss = -(log_prob * advantage).mean()
        value_loss = (value - target).square().mean()
        loss = policy_loss + self.cfg.value_coef * value_loss - entropy_coef * entropy
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    def _batch(self, rollout: Rollout) -> tuple[list[Tensor], dict[str, float]]:
        """Observations, actions, advantages and value targets, each [B, ...].

        The rewards' statistics take in this rollout first; the observations' only after the update, so that
        the policy is judged as it acted.
        """
        self.reward_normalizer.update(rollout.reward, rollout.done)
        reward, inputs = self.reward_normalizer(rollout.reward), self.obs_normalizer(rollout.obs[:-1])
        value, next_value = rollout.values(lambda obs: self.value(self.obs_normalizer(obs)))
        advantage = gae(reward, value, next_value, *rollout.ends, self.cfg.gamma, self.cfg.gae_lambda)
        target = advantage + value

        arrays = inputs, rollout.action, advantage.astype(np.float32), target.astype(np.float32)
        return flat_tensors(self.device, *arrays), explained_variance(advantage, target)
