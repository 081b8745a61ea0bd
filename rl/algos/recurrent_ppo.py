"""Recurrent PPO: PPO (Schulman et al. 2017) with a memory, a gated recurrent unit, for what one observation
does not show.
"""

from __future__ import annotations

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
from rl.learning.networks.numpy_forward import NetworkFactory, numpy_forward
from rl.learning.networks.recurrent import RecurrentActorCritic
from rl.learning.normalize import ObsNormalizer, RewardNormalizer
from rl.learning.returns import explained_variance, gae

REPORT = ("loss", "grad_norm", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


class RecurrentPPO(Agent):
    """PPO on sequences: the gradient goes back through `sequence_length` steps, not beyond an episode's
    beginning.

    Each rollout is cut into sequences of that length. The states in which they begin are those in which the
    policy acted, and are kept for all epochs (Kapturowski et al. 2019, section 3: the stored state).
    """

    columns = ("value_loss", "policy_loss", "approx_kl", "clip_fraction", "explained_variance")

    def __init__(
        self,
        setting: Setting,
        *,
        gamma: float,
        gae_lambda: float,
        rollout_length: int,
        sequence_length: int,
        minibatch_size: int,
        epochs: int,
        lr: Schedule,
        clip_range: Schedule,
        value_clip_range: Schedule | None,
        target_kl: float | None,
        entropy_coef: Schedule,
        value_coef: float,
        max_grad_norm: float | None,
        normalize_advantage: bool,
        normalize_obs: bool,
        normalize_reward: bool,
        state_size: int,
        network: NetworkFactory,
        optimizer: Any,
    ) -> None:
        batch_size = setting.batch_size(rollout_length, minibatch_size)
        for name, steps in (("rollout_length", rollout_length), ("minibatch_size", minibatch_size)):
            if steps % sequence_length:
                up = steps + -steps % sequence_length
                raise ValueError(
                    f"algo.sequence_length={sequence_length} does not divide algo.{name}={steps}; try algo.{name}={up}"
                )
        if normalize_advantage and minibatch_size == 1:
            raise ValueError(
                "algo.minibatch_size=1 has no spread to normalise advantages by; type algo.normalize_advantage=false"
            )
        self.rollout_length, self.sequence_length, self.epochs = rollout_length, sequence_length, epochs
        self.num_sequences, self.minibatch = batch_size // sequence_length, minibatch_size // sequence_length
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.lr, self.entropy_coef = lr, entropy_coef
        self.clip_range, self.value_clip_range, self.target_kl = clip_range, value_clip_range, target_kl
        self.value_coef, self.normalize_advantage = value_coef, normalize_advantage
        self.clock, self.rng, self.device = setting.clock, setting.streams.minibatch, setting.device

        self.distribution = distribution_for(setting.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype
        obs_shape = setting.obs_space.shape
        networks = RecurrentActorCritic(network, obs_shape, self.distribution, size=state_size).to(
            self.device
        )
        self.networks, self.state_size = networks, state_size
        optimizing = {"optimizer": optimizer, "max_grad_norm": max_grad_norm, "compile": setting.compile}
        self.step = GradientStep(networks, [networks], self._loss, **optimizing)
        self.remember = numpy_forward(networks.memory)
        self.policy_params, self.value = networks.heads.numpy_policy(), networks.heads.numpy_value()
        self.obs_normalizer = ObsNormalizer(obs_shape) if normalize_obs else None
        self.reward_normalizer = RewardNormalizer(setting.num_envs, gamma) if normalize_reward else None

        self.parts = {"networks": networks, **self.step.parts}
        self.playing = ("networks",)
        if self.obs_normalizer is not None:
            self.parts["obs_normalizer"] = self.obs_normalizer
            self.playing = ("networks", "obs_normalizer")
        if self.reward_normalizer is not None:
            self.parts["reward_normalizer"] = self.reward_normalizer

    def initial_state(self, num_envs: int) -> Recurrent:
        """Zeros [N, H]."""
        return np.zeros((num_envs, self.state_size), np.float32)

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Sampled actions, or the policy's mode."""
        state = self.remember(obs if self.obs_normalizer is None else self.obs_normalizer(obs), state)
        params = self.policy_params(state)
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """`epochs` passes over the rollout's sequences in shuffled minibatches, fewer if the policy moves
        beyond `target_kl`.
        """
        batch, explained = self._batch(rollout)
        frames, step = self.clock.frames, self.step
        lr, entropy_coef = self.lr(frames), self.entropy_coef(frames)
        step.set_lr(lr)
        value_clip = None if self.value_clip_range is None else step.scalar(self.value_clip_range(frames))
        coefs = step.scalar(self.clip_range(frames)), value_clip, step.scalar(entropy_coef)
        report, updates = shuffled_epochs(
            step,
            batch,
            coefs,
            count=self.num_sequences,
            minibatch=self.minibatch,
            epochs=self.epochs,
            target_kl=self.target_kl,
            rng=self.rng,
            report=REPORT,
        )
        self.clock.updates += updates
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(rollout.obs[:-1])
        return report | explained | {"lr": lr, "entropy_coef": entropy_coef}

    @torch.no_grad()
    def _batch(self, rollout: Rollout) -> tuple[list[Tensor], dict[str, float]]:
        """The rollout in sequences of L steps, C of them, all of the policy as it is.

        Observations [L, C, ...], actions [L, C, ...], what the loss knows of each step [L, C, 4], where
        episodes begin [L, C], and the states before the first steps [C, H].
        """
        reward, normalize = rollout.reward, self.obs_normalizer
        if self.reward_normalizer is not None:
            self.reward_normalizer.update(reward, rollout.done)
            reward = self.reward_normalizer(reward)
        obs = rollout.obs if normalize is None else normalize(rollout.obs)
        # [T + 1, N]; the state is already zero where the rollout begins with an episode
        begins = np.zeros(obs.shape[:2], np.bool_)
        for t, n, _ in rollout.final_obs:  # and not where a life was lost: there it went on
            begins[t + 1, n] = True
        inputs, state, begun = (
            torch.as_tensor(array, device=self.device) for array in (obs, rollout.state, begins)
        )
        params, values, states = self.networks(inputs, state, begun)

        value = values.view(begun.shape).cpu().numpy()
        next_value = value[1:].copy()
        cut = [(t, n, last) for t, n, last in rollout.final_obs if not rollout.terminated[t, n]]
        if cut:
            rows, envs, last = (list(column) for column in zip(*cut, strict=True))
            last_obs = np.stack(last).astype(rollout.obs.dtype)
            after = self.remember(
                last_obs if normalize is None else normalize(last_obs), states.cpu().numpy()[rows, envs]
            )
            next_value[rows, envs] = self.value(after)
        advantage = gae(
            reward, value[:-1], next_value, rollout.terminated, rollout.done, self.gamma, self.gae_lambda
        )
        target = advantage + value[:-1]

        action = torch.as_tensor(rollout.action, device=self.device)
        log_prob = self.distribution.log_prob(params[: -rollout.reward.shape[1]], action.flatten(0, 1)).view(
            reward.shape
        )
        steps = torch.as_tensor(
            np.stack([advantage, target, value[:-1]], -1).astype(np.float32), device=self.device
        )
        numbers = torch.cat([steps, log_prob.unsqueeze(-1)], -1)
        length = self.sequence_length
        starts = torch.cat([state.unsqueeze(0), states[length - 1 : -2 : length]]).flatten(0, 1)
        return [
            *map(self._sequences, (inputs[:-1], action, numbers, begun[:-1])),
            starts,
        ], explained_variance(advantage, target)

    def _sequences(self, steps: Tensor) -> Tensor:
        """[T, N, ...] -> [L, C, ...]: all envs' first L steps, then all envs' next."""
        return steps.unflatten(0, (-1, self.sequence_length)).transpose(0, 1).flatten(1, 2)

    def _loss(
        self,
        networks: Any,
        obs: Tensor,
        action: Tensor,
        numbers: Tensor,
        begins: Tensor,
        starts: Tensor,
        index: Tensor,
        clip_range: Any,
        value_clip_range: Any,
        entropy_coef: Any,
    ) -> tuple[Tensor, list[Tensor]]:
        """The sequences `index` [M] of the batch; what is reported besides the loss stands in the order of
        REPORT.
        """
        obs, action, numbers, begins = (
            steps.index_select(1, index) for steps in (obs, action, numbers, begins)
        )
        advantage, target, old_value, old_log_prob = numbers.flatten(0, 1).unbind(-1)
        params, value, _ = networks(obs, starts.index_select(0, index), begins)
        log_prob, entropy = self.distribution.log_prob_and_entropy(params, action.flatten(0, 1))
        entropy = entropy.mean()
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss, approx_kl, clip_fraction = clipped_policy_loss(
            log_prob, old_log_prob, advantage, clip_range
        )
        value_loss = clipped_value_loss(value, old_value, target, value_clip_range)
        loss = policy_loss + self.value_coef * value_loss - entropy_coef * entropy
        return loss, [policy_loss, value_loss, entropy, approx_kl, clip_fraction]
