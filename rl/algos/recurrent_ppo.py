"""Recurrent PPO: PPO (Schulman et al. 2017) with a memory, a gated recurrent unit, for what one observation
does not show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.algos.agent import Agent, AgentContext, Recurrent, Rollout
from rl.config.schema.algos import RecurrentPPOConfig
from rl.learning.distributions import distribution_for
from rl.learning.gradient_step import GradientStep
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.networks.recurrent import RecurrentActorCritic
from rl.learning.normalize import obs_normalizer, reward_normalizer
from rl.learning.returns import explained_variance, gae


class RecurrentPPO(Agent):
    """PPO on sequences: the gradient goes back through `sequence_length` steps, not beyond an episode's
    beginning.

    Each rollout is cut into sequences of that length. The states in which they begin are those in which the
    policy acted, and are kept for all epochs (Kapturowski et al. 2019, section 3: the stored state).
    """

    Config = RecurrentPPOConfig
    columns = ("value_loss", "policy_loss", "approx_kl", "clip_fraction", "explained_variance")

    def __init__(self, context: AgentContext, cfg: RecurrentPPOConfig) -> None:
        batch_size, length = context.batch_size(cfg.rollout_length, cfg.minibatch_size), cfg.sequence_length
        for name, steps in (("rollout_length", cfg.rollout_length), ("minibatch_size", cfg.minibatch_size)):
            if steps % length:
                up = steps + -steps % length
                raise ValueError(
                    f"algo.sequence_length={length} does not divide algo.{name}={steps}; try algo.{name}={up}"
                )
        if cfg.normalize_advantage and cfg.minibatch_size == 1:
            raise ValueError(
                "algo.minibatch_size=1 has no spread to normalise advantages by; type"
                " algo.normalize_advantage=false"
            )
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.num_sequences, self.minibatch_sequences = batch_size // length, cfg.minibatch_size // length
        self.clock, self.rng, self.device = context.clock, context.streams.minibatch, context.device
        self.distribution = distribution_for(context.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype

        obs_shape, size = context.obs_space.shape, cfg.state_size
        self.networks = RecurrentActorCritic(cfg.network, obs_shape, self.distribution, size=size).to(
            self.device
        )
        optimizing: dict[str, Any] = {
            "optimizer": cfg.optimizer,
            "max_grad_norm": cfg.max_grad_norm,
            "compile": context.compile,
        }
        self.step = GradientStep(self.networks, [self.networks], self._loss, **optimizing)
        self.remember, heads = numpy_forward(self.networks.memory), self.networks.heads
        self.policy_params, self.value = heads.numpy_policy(), heads.numpy_value()
        self.obs_normalizer = obs_normalizer(obs_shape, cfg.normalize_obs)
        self.reward_normalizer = reward_normalizer(context.num_envs, cfg.gamma, cfg.normalize_reward)

        normalizers = {**self.obs_normalizer.parts, **self.reward_normalizer.parts}
        self.parts = {"networks": self.networks, **self.step.parts, **normalizers}
        self.policy_parts = ("networks", *self.obs_normalizer.parts)

    def initial_state(self, num_envs: int) -> Recurrent:
        """Zeros [N, H]."""
        return np.zeros((num_envs, self.cfg.state_size), np.float32)

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Sampled actions, or the policy's mode."""
        state = self.remember(self.obs_normalizer(obs), state)
        params = self.policy_params(state)
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """`epochs` passes over the rollout's sequences in shuffled minibatches, fewer if the policy moves
        beyond `target_kl`.
        """
        cfg, step, frames = self.cfg, self.step, self.clock.frames
        batch, explained = self._batch(rollout)
        lr, clip_range, entropy_coef = cfg.lr(frames), cfg.clip_range(frames), cfg.entropy_coef(frames)
        value_clip_range = None if cfg.value_clip_range is None else cfg.value_clip_range(frames)
        step.set_lr(lr)
        for _ in range(cfg.epochs):
            kl_before = step.total("approx_kl")
            order = torch.from_numpy(self.rng.permutation(self.num_sequences)).to(self.device)
            for index in order.split(self.minibatch_sequences):
                step(*batch, index, clip_range, value_clip_range, entropy_coef)
                self.clock.updates += 1
            if cfg.target_kl is not None:
                kl = (step.total("approx_kl") - kl_before) * self.minibatch_sequences / self.num_sequences
                if float(kl) > cfg.target_kl:
                    break
        self.obs_normalizer.update(rollout.obs[:-1])
        return step.report() | explained | {"lr": lr, "entropy_coef": entropy_coef}

    def _loss(
        self,
        networks: Any,
        obs: Tensor,
        action: Tensor,
        steps: Tensor,
        begins: Tensor,
        starts: Tensor,
        index: Tensor,
        clip_range: Any,
        value_clip_range: Any,
        entropy_coef: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-L^{CLIP+VF+S} (eq. 9) of the sequences `index` [M] of the batch."""
        obs, action, steps, begins = (x.index_select(1, index) for x in (obs, action, steps, begins))
        advantage, target, old_value, old_log_prob = steps.flatten(0, 1).unbind(-1)
        params, value, _ = networks(obs, starts.index_select(0, index), begins)
        log_prob, entropy = self.distribution.log_prob_and_entropy(params, action.flatten(0, 1))
        entropy = entropy.mean()
        if self.cfg.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

        log_ratio = log_prob - old_log_prob
        ratio = log_ratio.exp()  # r(theta)
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()  # eq. 7
        with torch.no_grad():
            approx_kl = (ratio - 1 - log_ratio).mean()  # Schulman's estimator k3: unbiased, and never below 0
            clip_fraction = (ratio != clipped).float().mean()

        value_error = (value - target).square()
        if value_clip_range is not None:  # the worse of the value and the value held so near to the old one
            near = old_value + (value - old_value).clamp(-value_clip_range, value_clip_range)
            value_error = torch.maximum(value_error, (near - target).square())
        value_loss = value_error.mean()

        loss = policy_loss + self.cfg.value_coef * value_loss - entropy_coef * entropy
        policy = {"policy_loss": policy_loss, "approx_kl": approx_kl, "clip_fraction": clip_fraction}
        return loss, {**policy, "value_loss": value_loss, "entropy": entropy}

    @torch.no_grad()
    def _batch(self, rollout: Rollout) -> tuple[list[Tensor], dict[str, float]]:
        """The rollout in sequences of L steps, C of them, all of the policy as it is.

        Observations [L, C, ...], actions [L, C, ...], of each step its advantage, value target, value and
        log-probability [L, C, 4], where episodes begin [L, C], and the states before the first steps [C, H].
        """
        cfg, num_steps = self.cfg, rollout.reward.size
        self.reward_normalizer.update(rollout.reward, rollout.done)
        reward = self.reward_normalizer(rollout.reward)
        # [T + 1, N]; the state is already zero where the rollout begins with an episode
        begins = np.zeros(rollout.obs.shape[:2], np.bool_)
        for t, n, _ in rollout.final_obs:  # and not where a life was lost: there it went on
            begins[t + 1, n] = True
        arrays = self.obs_normalizer(rollout.obs), rollout.state, begins, rollout.action
        obs, state, begun, action = (torch.as_tensor(array, device=self.device) for array in arrays)
        params, values, states = self.networks(obs, state, begun)  # of all T + 1 observations

        value = values.view(begun.shape).cpu().numpy()
        next_value = self._next_value(rollout, value, states.cpu().numpy())
        ends = rollout.terminated, rollout.done
        advantage = gae(reward, value[:-1], next_value, *ends, cfg.gamma, cfg.gae_lambda)
        target = advantage + value[:-1]

        log_prob = self.distribution.log_prob(params[:num_steps], action.flatten(0, 1)).view(reward.shape)
        known = np.stack([advantage, target, value[:-1]], -1).astype(np.float32)
        steps = torch.cat([torch.as_tensor(known, device=self.device), log_prob.unsqueeze(-1)], -1)
        length = cfg.sequence_length
        starts = torch.cat([state.unsqueeze(0), states[length - 1 : -2 : length]]).flatten(0, 1)
        cut = [self._sequences(x) for x in (obs[:-1], action, steps, begun[:-1])]
        return [*cut, starts], explained_variance(advantage, target)

    def _next_value(self, rollout: Rollout, value: NDArray[Any], states: NDArray[Any]) -> NDArray[Any]:
        """V of the true successors [T, N]: where an episode was truncated, of its last observation."""
        result = value[1:].copy()
        cut = [(t, n, last) for t, n, last in rollout.final_obs if not rollout.terminated[t, n]]
        if cut:
            rows, envs, last = (list(column) for column in zip(*cut, strict=True))
            last_obs = self.obs_normalizer(np.stack(last).astype(rollout.obs.dtype))
            result[rows, envs] = self.value(self.remember(last_obs, states[rows, envs]))
        return result

    def _sequences(self, steps: Tensor) -> Tensor:
        """[T, N, ...] -> [L, C, ...]: all envs' first L steps, then all envs' next."""
        return steps.unflatten(0, (-1, self.cfg.sequence_length)).transpose(0, 1).flatten(1, 2)
