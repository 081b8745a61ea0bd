"""SAC (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications"): maximum entropy, off-policy,
continuous.

Every update makes one step for the critics, the actor and the temperature, all three from the weights before
it (algorithm 1 with its gradients taken at once): one loss, one backward pass, and compiled one graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import SACConfig
from rl.learning.distributions import SquashedGaussian
from rl.learning.gradient_step import TargetWeights
from rl.learning.networks.ensemble import ensemble, frozen
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.multi_input import with_actions
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.replay import Batch, UniformReplay


class Networks(nn.Module):
    """All that is learned by gradients."""

    def __init__(self, cfg: SACConfig, obs_shape: Sequence[int], distribution: SquashedGaussian) -> None:
        super().__init__()
        self.critics = ensemble(cfg.network, 2, with_actions(obs_shape, distribution.num_actions), 1)
        self.actor = cfg.network(obs_shape, distribution.num_params)
        self.temperature = nn.ParameterDict({"log_alpha": torch.tensor([cfg.alpha]).log()})


class SAC(Agent):
    """Soft Q-learning: two critics, and an actor that follows the lower and is paid for its entropy."""

    Config = SACConfig
    columns = ("policy_loss", "q_mean", "alpha")

    def __init__(self, context: AgentContext, cfg: SACConfig) -> None:
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.updates_per_frame = Fraction(str(cfg.updates_per_frame))
        self.clock, self.streams, self.device = context.clock, context.streams, context.device
        self.distribution = SquashedGaussian(context.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype
        least = -float(self.distribution.box.num_free)
        self.target_entropy = least if cfg.target_entropy is None else cfg.target_entropy

        obs_shape = context.obs_shape
        networks, targets = (Networks(cfg, obs_shape, self.distribution).to(self.device) for _ in range(2))
        groups = [networks.critics, networks.actor, networks.temperature]
        self.networks, self.target_critics = networks, targets.critics
        self.step = context.gradient_step(networks, self._loss, cfg.optimizer, groups=groups)
        self.target_weights = TargetWeights(self.step.flats[0], self.target_critics)
        self.params = numpy_forward(networks.actor)
        self.obs_normalizer = context.obs_normalizer(cfg.normalize_obs)
        self.replay: UniformReplay = context.replay(self, cfg)

        learned = {"critics": networks.critics, "actor": networks.actor, "temperature": networks.temperature}
        names = ("critic_optimizer", "actor_optimizer", "temperature_optimizer")
        optimizers = dict(zip(names, self.step.optimizers, strict=True))
        self.parts = {**learned, "target_critics": self.target_critics, **optimizers, "replay": self.replay}
        self.parts |= self.obs_normalizer.parts
        self.policy_parts = ("actor", *self.obs_normalizer.parts)

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Sampled actions, uniform ones before learning starts, or the policy's mode."""
        if explore and self.clock.frames < self.cfg.learning_starts:
            return self.distribution.box.uniform(len(obs), rng), state
        params = self.params(self.obs_normalizer(obs))
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, in torch."""
        return Greedy(self.obs_normalizer.in_torch, self.networks.actor, self.distribution.mode_in_torch)

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Remember the rollout, and make the updates that it earned."""
        cfg, frames, replay = self.cfg, self.clock.frames, self.replay
        replay.add(rollout)
        lr = cfg.lr(frames)
        self.step.set_lr(lr, (cfg.actor_lr or cfg.lr)(frames), (cfg.alpha_lr or cfg.lr)(frames))
        due = replay.updates_due(frames, rollout.reward.size, self.updates_per_frame)
        for _ in due:
            batch = replay.sample(cfg.batch_size, self.streams.replay, frames)
            replay.update_priorities(batch.number, self.step(*self._inputs(batch))["td_error"])
            self.target_weights.update(cfg.target_tau)
        self.clock.updates += len(due)
        self.obs_normalizer.update(rollout.obs[:-1])
        return self.step.report() | {"lr": lr}

    def _loss(self, networks: Any, batch: Batch, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of critics (eq. 5), actor (eq. 7) and temperature (eq. 17, by its log); each moves only itself."""
        log_alpha = networks.temperature["log_alpha"].squeeze(0)
        alpha = log_alpha.detach().exp()
        obs, next_obs = batch.obs.flatten(1), batch.next_obs.flatten(1)

        with torch.no_grad():
            params = networks.actor(batch.next_obs)
            next_action, next_log_prob = self.distribution.sample_with_log_prob(params, noise[1])
            next_q = self.target_critics(torch.cat([next_obs, next_action], -1)).squeeze(-1)  # [2, B]
            target = batch.reward + batch.discount * (next_q.amin(0) - alpha * next_log_prob)
        error = networks.critics(torch.cat([obs, batch.action], -1)).squeeze(-1) - target
        critic_loss = 0.5 * (batch.weight * error.square()).mean(-1).sum()

        new_action, log_prob = self.distribution.sample_with_log_prob(networks.actor(batch.obs), noise[0])
        q = frozen(networks.critics)(torch.cat([obs, new_action], -1)).squeeze(-1).amin(0)
        actor_loss = (alpha * log_prob - q).mean()
        entropy = -log_prob.detach().mean()
        temperature_loss = log_alpha * (entropy - self.target_entropy)

        loss = critic_loss + actor_loss + temperature_loss
        report = {"loss": critic_loss, "policy_loss": actor_loss, "q_mean": q.mean(), "entropy": entropy}
        return loss, {**report, "alpha": alpha, "td_error": self.step.whole(error.detach().abs().mean(0))}

    def _inputs(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The batch for the loss, and the noise of the actions in obs and next_obs [2, B, A]."""
        obs, next_obs = self.obs_normalizer(batch.obs), self.obs_normalizer(batch.next_obs)
        action = self.distribution.box.shrink(batch.action)
        noise = self.streams.minibatch.standard_normal((2, *action.shape), np.float32)
        batch = batch._replace(obs=obs, action=action, next_obs=next_obs)
        share = self.step.share
        return share(batch.to(self.device)), share(torch.as_tensor(noise, device=self.device), 1)
