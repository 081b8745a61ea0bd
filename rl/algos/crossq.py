"""CrossQ (Bhatt et al. 2024): SAC without target networks; batch renormalisation takes their place.

What the critics make of (s, a) and of (s', a') is normalised by the statistics of both together, in one pass.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import CrossQConfig
from rl.learning.distributions import SquashedGaussian
from rl.learning.networks.ensemble import frozen
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.multi_input import with_actions
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.replay import Batch, UniformReplay


class Policy(nn.Module):
    """The actor and the temperature."""

    def __init__(self, actor: nn.Module, alpha: float) -> None:
        super().__init__()
        self.actor: Any = actor
        self.temperature = nn.ParameterDict({"log_alpha": torch.tensor([alpha]).log()})


class CrossQ(Agent):
    """Two critics that see both ends of a transition at once; every `policy_delay`-th update, counted by the
    frames that earned it, moves the actor too (algorithm 1).
    """

    Config = CrossQConfig
    columns = ("policy_loss", "q_mean", "alpha")

    def __init__(self, context: AgentContext, cfg: CrossQConfig) -> None:
        for key, factory in (("network", cfg.network), ("critic_network", cfg.critic_network)):
            if not hasattr(getattr(factory, "func", factory), "by_batch"):
                raise ValueError(
                    f"it needs batch renormalisation: type algo.{key}._target_=rl.networks.BatchRenormMLP"
                )
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.updates_per_frame = Fraction(str(cfg.updates_per_frame))
        self.clock, self.streams, self.device = context.clock, context.streams, context.device
        self.distribution = SquashedGaussian(context.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype
        least = -float(self.distribution.box.num_free)
        self.target_entropy = least if cfg.target_entropy is None else cfg.target_entropy

        obs_shape = context.obs_shape
        critic_shape = with_actions(obs_shape, self.distribution.num_actions)
        self.critics: Any = cfg.critic_network(critic_shape, 1, members=2).to(self.device)
        actor = cfg.network(obs_shape, self.distribution.num_params, members=1)
        self.policy = Policy(actor, cfg.alpha).to(self.device)
        groups = [self.policy.actor, self.policy.temperature]
        self.critic_step = context.gradient_step(self.critics, self._critic_loss, cfg.optimizer)
        self.policy_step = context.gradient_step(self.policy, self._policy_loss, cfg.optimizer, groups=groups)
        self.params = numpy_forward(self.policy.actor)
        self.obs_normalizer = context.obs_normalizer(cfg.normalize_obs)
        self.replay: UniformReplay = context.replay(self, cfg)

        learned = {"critics": self.critics, "actor": actor, "temperature": self.policy.temperature}
        names = ("critic_optimizer", "actor_optimizer", "temperature_optimizer")
        optimizers = [*self.critic_step.optimizers, *self.policy_step.optimizers]
        self.parts = {**learned, **dict(zip(names, optimizers, strict=True)), "replay": self.replay}
        self.parts |= self.obs_normalizer.parts
        self.policy_parts = ("actor", *self.obs_normalizer.parts)

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Sampled actions, uniform ones before learning starts, or the policy's mode."""
        if explore and self.clock.frames < self.cfg.learning_starts:
            return self.distribution.box.uniform(len(obs), rng), state
        params = self.params(self.obs_normalizer(obs))[0]
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, in torch."""
        return Greedy(
            self.obs_normalizer.in_torch,
            self.policy.actor,
            lambda params: self.distribution.mode_in_torch(params[0]),
        )

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Remember the rollout, and make the updates that it earned."""
        cfg, frames, replay = self.cfg, self.clock.frames, self.replay
        replay.add(rollout)
        lr = cfg.lr(frames)
        self.critic_step.set_lr(lr)
        self.policy_step.set_lr((cfg.actor_lr or cfg.lr)(frames), (cfg.alpha_lr or cfg.lr)(frames))
        due = replay.updates_due(frames, rollout.reward.size, self.updates_per_frame)
        for update in due:
            batch = replay.sample(cfg.batch_size, self.streams.replay, frames)
            inputs, noise = self._inputs(batch)
            outputs = self.critic_step(inputs, noise[1])
            replay.update_priorities(batch.number, outputs["td_error"])
            self.critics.follow(outputs["moments"])
            if update % cfg.policy_delay == 0:
                self.policy.actor.follow(self.policy_step(inputs.obs, noise[0])["moments"])
        self.clock.updates += len(due)
        self.obs_normalizer.update(rollout.obs[:-1])
        report = self.policy_step.report() | self.critic_step.report()  # loss and grad_norm are the critics'
        return report | {"lr": lr}

    def _critic_loss(self, critics: Any, batch: Batch, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared errors against the critics themselves, at the action that the actor, by its running
        statistics, draws next.
        """
        obs, next_obs = batch.obs, batch.next_obs
        alpha = self.policy.temperature["log_alpha"].detach().exp()
        with torch.no_grad():
            params = self.policy.actor(next_obs)[0]
            next_action, next_log_prob = self.distribution.sample_with_log_prob(params, noise)
        here = torch.cat([obs.flatten(1), batch.action], -1)
        there = torch.cat([next_obs.flatten(1), next_action], -1)
        values, moments = critics.by_batch(torch.cat([here, there]))
        q, next_q = values.squeeze(-1).chunk(2, -1)  # [2, B] each
        target = batch.reward + batch.discount * (next_q.detach().amin(0) - alpha * next_log_prob)
        error = q - target
        loss = 0.5 * (batch.weight * error.square()).mean(-1).sum()
        td_error = error.detach().abs().mean(0)
        return loss, {"q_mean": q.detach().mean(), "td_error": td_error, "moments": moments}

    def _policy_loss(self, policy: Any, obs: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of actor and temperature. The critics judge by their running statistics, and stay constant."""
        log_alpha = policy.temperature["log_alpha"].squeeze(0)
        alpha = log_alpha.detach().exp()
        params, moments = policy.actor.by_batch(obs)
        action, log_prob = self.distribution.sample_with_log_prob(params[0], noise)
        q = frozen(self.critics)(torch.cat([obs.flatten(1), action], -1)).squeeze(-1).amin(0)
        actor_loss = (alpha * log_prob - q).mean()
        entropy = -log_prob.detach().mean()
        loss = actor_loss + log_alpha * (entropy - self.target_entropy)
        return loss, {"policy_loss": actor_loss, "entropy": entropy, "alpha": alpha, "moments": moments}

    def _inputs(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The batch for the losses, and the noise of the actions in obs and next_obs [2, B, A]."""
        obs, next_obs = self.obs_normalizer(batch.obs), self.obs_normalizer(batch.next_obs)
        action = self.distribution.box.shrink(batch.action)
        noise = self.streams.minibatch.standard_normal((2, *action.shape), np.float32)
        batch = batch._replace(obs=obs, action=action, next_obs=next_obs)
        return batch.to(self.device), torch.as_tensor(noise, device=self.device)
