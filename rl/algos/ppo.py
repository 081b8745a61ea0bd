"""PPO (Schulman et al. 2017): several epochs on each rollout, with a clipped objective."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import PPOConfig
from rl.learning.distributions import distribution_for
from rl.learning.networks.cnn import channels_last, select
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.policy import ActorCritic
from rl.learning.normalize import reward_normalizer
from rl.learning.returns import explained_variance, gae
from rl.learning.rollout import flat_tensors


class Batch(NamedTuple):
    """A rollout as the policy that acted has it: B = T * N steps."""

    obs: Tensor  # [B, *obs_shape]
    action: Tensor  # [B, *action_shape]
    steps: Tensor  # [4, B]: advantage, value target, value, log-probability


class PPO(Agent):
    """Clipped surrogate objective (eq. 7), generalised advantages, value loss, entropy bonus (eq. 9)."""

    Config, masks = PPOConfig, True
    columns = ("value_loss", "policy_loss", "approx_kl", "clip_fraction", "explained_variance")

    def __init__(self, context: AgentContext, cfg: PPOConfig) -> None:
        context.check_value_lr(cfg)
        self.batch_size = context.batch_size(cfg)
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.clock, self.rng, self.device = context.clock, context.streams.minibatch, context.device
        self.distribution = distribution_for(context.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype

        obs_shape, shared = context.obs_shape, cfg.shared_network
        self.networks = ActorCritic(
            cfg.network, obs_shape, self.distribution, shared=shared, log_std_init=cfg.log_std_init
        ).to(self.device)
        groups = [self.networks] if cfg.value_lr is None else [*self.networks.children()]
        self.step = context.gradient_step(self.networks, self._loss, cfg.optimizer, cfg.max_grad_norm, groups)
        self.policy_params, self.value = self.networks.numpy_policy(), self.networks.numpy_value()
        self.policy_and_value = self.networks.numpy_forward() if shared else None
        self.obs_normalizer = context.obs_normalizer(cfg.normalize_obs)
        self.reward_normalizer = reward_normalizer(context.num_envs, cfg.gamma, cfg.normalize_reward)
        normalizers = {**self.obs_normalizer.parts, **self.reward_normalizer.parts}
        self.parts = {"networks": self.networks, **self.step.parts, **normalizers}
        self.policy_parts = ("networks", *self.obs_normalizer.parts)

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Sampled actions, or the policy's mode; and what a shared network gave, which `learn` needs."""
        obs = self.obs_normalizer(obs)
        if not explore:
            return self.distribution.mode(self.policy_params(obs)), state, {}
        if self.policy_and_value is None:
            return self.distribution.sample(self.policy_params(obs), rng), state, {}
        params, value = self.policy_and_value(obs)
        return self.distribution.sample(params, rng), state, {"params": params, "value": value}

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, in torch."""
        return Greedy(self.obs_normalizer.in_torch, self.networks.policy, self.distribution.mode_in_torch)

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """`epochs` passes over the rollout in shuffled minibatches; no more once KL exceeds `target_kl`."""
        cfg, step, frames = self.cfg, self.step, self.clock.frames
        batch, explained = self._batch(rollout)
        lr, clip_range, entropy_coef = cfg.lr(frames), cfg.clip_range(frames), cfg.entropy_coef(frames)
        value_clip = None if cfg.value_clip_range is None else cfg.value_clip_range(frames)
        step.set_lr(lr, *([] if cfg.value_lr is None else [cfg.value_lr(frames)]))
        for epoch in range(cfg.epochs):
            if epoch and cfg.recompute_advantage:
                batch.steps[:3] = self._advantages(rollout)[0]
            kl_before = step.total("approx_kl")
            order = torch.from_numpy(self.rng.permutation(self.batch_size)).to(self.device)
            for index in order.split(cfg.minibatch_size):
                step(batch, index, clip_range, value_clip, entropy_coef)
                self.clock.updates += 1
            if cfg.target_kl is not None:
                kl = (step.total("approx_kl") - kl_before) * cfg.minibatch_size / self.batch_size
                if float(kl) > cfg.target_kl:
                    break
        self.obs_normalizer.update(rollout.obs[:-1])
        return step.report() | explained | {"lr": lr, "entropy_coef": entropy_coef}

    def _loss(
        self, networks: Any, batch: Batch, index: Tensor, clip_range: Any, value_clip: Any, entropy_coef: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-L^{CLIP+VF+S} (eq. 9) of the minibatch `index` [M] of the batch."""
        advantage, target, old_value, old_log_prob = batch.steps.index_select(1, index).unbind()
        if self.cfg.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        index, advantage, target = self.step.share((index, advantage, target))
        old_value, old_log_prob = self.step.share((old_value, old_log_prob))
        params, value = networks(select(batch.obs, index))
        action = batch.action.index_select(0, index)
        log_prob, entropy = self.distribution.log_prob_and_entropy(params, action)
        entropy = entropy.mean()

        log_ratio = log_prob - old_log_prob
        ratio = log_ratio.exp()  # r(theta)
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()  # eq. 7
        with torch.no_grad():
            approx_kl = (ratio - 1 - log_ratio).mean()  # Schulman's estimator k3: unbiased, and never below 0
            clip_fraction = (ratio != clipped).float().mean()

        value_error = (value - target).square()
        if value_clip is not None:  # the worse of the value and the value held so near to the old one
            near = old_value + (value - old_value).clamp(-value_clip, value_clip)
            value_error = torch.maximum(value_error, (near - target).square())
        value_loss = value_error.mean()

        loss = policy_loss + self.cfg.value_coef * value_loss - entropy_coef * entropy
        policy = {"policy_loss": policy_loss, "approx_kl": approx_kl, "clip_fraction": clip_fraction}
        return loss, {**policy, "value_loss": value_loss, "entropy": entropy}

    @torch.no_grad()
    def _batch(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """The rewards' statistics take in this rollout first; the observations' only after the updates, so
        that the policy is judged as it acted.
        """
        acted = rollout.extras
        self.reward_normalizer.update(rollout.reward, rollout.done)
        known, explained = self._advantages(rollout, acted.get("value"))
        obs, action = flat_tensors(self.device, self.obs_normalizer(rollout.obs[:-1]), rollout.action)
        if acted:
            params = torch.as_tensor(acted["params"].reshape(len(obs), -1), device=self.device)
        else:
            params = self.networks.policy(obs)
        log_prob = self.distribution.log_prob(params, action)
        return Batch(channels_last(obs), action, torch.cat([known, log_prob.unsqueeze(0)])), explained

    def _advantages(self, rollout: Rollout, known: Array | None = None) -> tuple[Tensor, dict[str, float]]:
        """Advantages, targets and values [3, B], and the explained variance; values [T, N] may be `known`."""
        reward = self.reward_normalizer(rollout.reward)
        value, next_value = rollout.values(lambda o: self.value(self.obs_normalizer(o)), known)
        advantage = gae(reward, value, next_value, *rollout.ends, self.cfg.gamma, self.cfg.gae_lambda)
        target = advantage + value
        steps = np.stack([advantage, target, value]).astype(np.float32).reshape(3, -1)
        return torch.as_tensor(steps, device=self.device), explained_variance(advantage, target)
