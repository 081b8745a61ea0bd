"""Recurrent PPO: PPO (Schulman et al. 2017) with a memory for what one observation does not show."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import RecurrentPPOConfig
from rl.learning.distributions import distribution_for
from rl.learning.networks.greedy import RecurrentGreedy
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.networks.recurrent import RecurrentActorCritic
from rl.learning.normalize import reward_normalizer
from rl.learning.returns import explained_variance, gae


class Batch(NamedTuple):
    """A rollout in C sequences of L steps, whose states are kept (Kapturowski et al. 2019, section 3)."""

    obs: Tensor  # [L, C, *obs_shape]
    action: Tensor  # [L, C, *action_shape]
    steps: Tensor  # [L, C, 4]: advantage, value target, value, log-probability
    begins: Tensor  # [L, C]: where episodes begin
    state: Tensor  # [C, S]: before the first steps, as the policy acted, for all epochs


class RecurrentPPO(Agent):
    """PPO on sequences of `sequence_length` steps, through which gradients go back, within an episode."""

    Config, masks = RecurrentPPOConfig, True
    columns = ("value_loss", "policy_loss", "approx_kl", "clip_fraction", "explained_variance")

    def __init__(self, context: AgentContext, cfg: RecurrentPPOConfig) -> None:
        batch_size, length = context.batch_size(cfg, cfg.sequence_length), cfg.sequence_length
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.num_sequences, self.minibatch_sequences = batch_size // length, cfg.minibatch_size // length
        self.clock, self.rng, self.device = context.clock, context.streams.minibatch, context.device
        self.distribution = distribution_for(context.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype

        obs_shape, head = context.obs_shape, self.distribution
        options: dict[str, Any] = {"size": cfg.state_size, "memory": cfg.memory}
        self.networks = RecurrentActorCritic(cfg.network, obs_shape, head, **options).to(self.device)
        self.step = context.gradient_step(self.networks, self._loss, cfg.optimizer, cfg.max_grad_norm)
        self.remember = numpy_forward(self.networks.memory)
        self.policy_params, self.value = self.networks.numpy_policy(), self.networks.numpy_value()
        self.obs_normalizer = context.obs_normalizer(cfg.normalize_obs)
        self.reward_normalizer = reward_normalizer(context.num_envs, cfg.gamma, cfg.normalize_reward)
        normalizers = {**self.obs_normalizer.parts, **self.reward_normalizer.parts}
        self.parts = {"networks": self.networks, **self.step.parts, **normalizers}
        self.policy_parts = ("networks", *self.obs_normalizer.parts)

    def initial_state(self, num_envs: int) -> Recurrent:
        """Zeros [N, S]; the policy sees the first H numbers of each."""
        return np.zeros((num_envs, self.networks.memory.state_size), np.float32)

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Sampled actions, or the policy's mode."""
        obs = self.obs_normalizer(obs)
        state = self.remember(obs, state)
        params = self.policy_params(state, obs)
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, in torch."""
        return RecurrentGreedy(self.obs_normalizer.in_torch, self.networks, self.distribution.mode_in_torch)

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """`epochs` passes over shuffled minibatches of sequences; no more once KL exceeds `target_kl`."""
        cfg, step, frames = self.cfg, self.step, self.clock.frames
        batch, explained = self._batch(rollout)
        lr, clip_range, entropy_coef = cfg.lr(frames), cfg.clip_range(frames), cfg.entropy_coef(frames)
        value_clip = None if cfg.value_clip_range is None else cfg.value_clip_range(frames)
        step.set_lr(lr)
        for _ in range(cfg.epochs):
            kl_before = step.total("approx_kl")
            order = torch.from_numpy(self.rng.permutation(self.num_sequences)).to(self.device)
            for index in order.split(self.minibatch_sequences):
                step(batch, index, clip_range, value_clip, entropy_coef)
                self.clock.updates += 1
            kl = (step.total("approx_kl") - kl_before) * self.minibatch_sequences / self.num_sequences
            if cfg.target_kl is not None and float(kl) > cfg.target_kl:
                break
        self.obs_normalizer.update(rollout.obs[:-1])
        return step.report() | explained | {"lr": lr, "entropy_coef": entropy_coef}

    def _loss(
        self, networks: Any, batch: Batch, index: Tensor, clip_range: Any, value_clip: Any, entropy_coef: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-L^{CLIP+VF+S} (eq. 9) of the sequences `index` [M] of the batch."""
        advantage = batch.steps.index_select(1, index).flatten(0, 1).unbind(-1)[0]
        if self.cfg.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        advantage = self.step.share(advantage.unflatten(0, (-1, len(index))), 1).flatten()
        index = self.step.share(index)
        obs, action, steps, begins = (x.index_select(1, index) for x in batch[:4])
        _, target, old_value, old_log_prob = steps.flatten(0, 1).unbind(-1)
        params, value, _ = networks(obs, batch.state.index_select(0, index), begins)
        log_prob, entropy = self.distribution.log_prob_and_entropy(params, action.flatten(0, 1))
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
        """The rewards' statistics take in this rollout first, the observations' only after the updates."""
        cfg, length = self.cfg, self.cfg.sequence_length
        self.reward_normalizer.update(rollout.reward, rollout.done)
        reward = self.reward_normalizer(rollout.reward)
        begins = np.pad(rollout.reset, ((1, 0), (0, 0)))  # [T + 1, N]; state 0 has its zeros already
        arrays = self.obs_normalizer(rollout.obs), rollout.state, begins, rollout.action
        obs, state, begun, action = (torch.as_tensor(array, device=self.device) for array in arrays)
        params, values, states = self.networks(obs, state, begun)  # of all T + 1 observations
        value, after = values.view(begun.shape).cpu().numpy(), states.cpu().numpy()
        next_value = rollout.next_values(
            value, lambda last, t, n: self.value(self.remember(self.obs_normalizer(last), after[t, n]))
        )
        advantage = gae(reward, value[:-1], next_value, *rollout.ends, cfg.gamma, cfg.gae_lambda)
        target = advantage + value[:-1]
        log_prob = self.distribution.log_prob(params[: reward.size], action.flatten(0, 1)).view(reward.shape)
        known = np.stack([advantage, target, value[:-1]], -1).astype(np.float32)
        steps = torch.cat([torch.as_tensor(known, device=self.device), log_prob.unsqueeze(-1)], -1)
        starts = torch.cat([state.unsqueeze(0), states[length - 1 : -2 : length]]).flatten(0, 1)
        obs, action, steps, begun = (self._sequences(x) for x in (obs[:-1], action, steps, begun[:-1]))
        return Batch(obs, action, steps, begun, starts), explained_variance(advantage, target)

    def _sequences(self, steps: Tensor) -> Tensor:
        """[T, N, ...] -> [L, C, ...]: all envs' first L steps, then all envs' next."""
        return steps.unflatten(0, (-1, self.cfg.sequence_length)).transpose(0, 1).flatten(1, 2)
