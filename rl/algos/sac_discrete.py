"""SAC for discrete actions (Christodoulou 2019): what SAC draws, this sums over all actions.

Every update makes one step for critics, actor and temperature, all three from the weights before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import DiscreteSACConfig
from rl.learning.distributions import Categorical
from rl.learning.gradient_step import TargetWeights
from rl.learning.masks import LOWEST, mean_allowed, random_actions
from rl.learning.networks.ensemble import ensemble
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.masked import per_action
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.replay import Batch, UniformReplay


class Networks(nn.Module):
    """All that is learned by gradients."""

    def __init__(self, cfg: DiscreteSACConfig, obs_shape: Sequence[int], num_actions: int) -> None:
        super().__init__()
        self.critics = ensemble(partial(per_action, cfg.network), 2, obs_shape, num_actions)
        self.actor = per_action(cfg.network, obs_shape, num_actions)
        self.temperature = nn.ParameterDict({"log_alpha": torch.tensor([cfg.alpha]).log()})


class DiscreteSAC(Agent):
    """Soft Q-learning with two critics, and an actor whose probabilities follow the lower of them."""

    Config, masks = DiscreteSACConfig, True
    columns = ("policy_loss", "q_mean", "alpha")

    def __init__(self, context: AgentContext, cfg: DiscreteSACConfig) -> None:
        space = context.discrete_actions("algo=sac can act in a continuous one")
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.updates_per_frame = Fraction(str(cfg.updates_per_frame))
        self.clock, self.streams, self.device = context.clock, context.streams, context.device
        self.num_actions = int(space.n)
        self.distribution = Categorical(self.num_actions, int(space.start))
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype
        self.target_entropy = cfg.target_entropy_ratio * math.log(self.num_actions)
        self.mask_size = context.mask_size

        obs_shape = context.obs_shape
        networks, targets = (Networks(cfg, obs_shape, self.num_actions).to(self.device) for _ in range(2))
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
        """Sampled actions, uniform ones before learning starts, or the most likely."""
        if explore and self.clock.frames < self.cfg.learning_starts:
            return random_actions(obs, self.num_actions, rng) + self.distribution.start, state
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
            replay.update_priorities(batch.number, self.step(self._inputs(batch))["td_error"])
            self.target_weights.update(cfg.target_tau)
        self.clock.updates += len(due)
        self.obs_normalizer.update(rollout.obs[:-1])
        return self.step.report() | {"lr": lr}

    def _loss(self, networks: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Of critics (eq. 3), actor (eq. 12) and temperature (eq. 11, by its log); each moves only itself."""
        log_alpha = networks.temperature["log_alpha"].squeeze(0)
        alpha = log_alpha.detach().exp()

        with torch.no_grad():
            next_log_prob = networks.actor(batch.next_obs).log_softmax(-1)
            next_q = self.target_critics(batch.next_obs).amin(0)
            next_value = (next_log_prob.exp() * (next_q - alpha * next_log_prob)).sum(-1)  # eq. 10
            target = batch.reward + batch.discount * next_value
        q = networks.critics(batch.obs)  # [2, B, A]
        error = q.gather(-1, batch.action.expand(2, -1).unsqueeze(-1)).squeeze(-1) - target
        critic_loss = 0.5 * (batch.weight * error.square()).mean(-1).sum()

        log_prob = networks.actor(batch.obs).log_softmax(-1)
        prob, lower_q = log_prob.exp(), q.detach().amin(0)
        actor_loss = (prob * (alpha * log_prob - lower_q)).sum(-1).mean()
        entropy = -(prob * log_prob).sum(-1).mean().detach()
        temperature_loss = log_alpha * (entropy - self._target_entropy(log_prob))

        loss = critic_loss + actor_loss + temperature_loss
        report = {
            "loss": critic_loss,
            "policy_loss": actor_loss,
            "q_mean": mean_allowed(lower_q) if self.mask_size else lower_q.mean(),
            "alpha": alpha,
        }
        td_error = self.step.whole(error.detach().abs().mean(0))
        return loss, {**report, "entropy": entropy, "td_error": td_error}

    def _target_entropy(self, log_prob: Tensor) -> Any:
        """Of policies [B, A]: a share of the highest entropy, which is lower where actions are masked."""
        if not self.mask_size:
            return self.target_entropy
        return self.cfg.target_entropy_ratio * (log_prob > LOWEST).sum(-1).log().mean()

    def _inputs(self, batch: Batch) -> Batch:
        """The batch for the loss."""
        batch = self.step.share(batch)
        obs, next_obs = self.obs_normalizer(batch.obs), self.obs_normalizer(batch.next_obs)
        action = batch.action - self.distribution.start
        return batch._replace(obs=obs, action=action, next_obs=next_obs).to(self.device)
