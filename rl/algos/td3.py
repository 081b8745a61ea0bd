"""TD3 (Fujimoto et al. 2018): a deterministic actor, the lower of two critics, delayed and smoothed.

With one critic, no delay and no target noise it is DDPG (Lillicrap et al. 2016): conf/algo/ddpg.yaml.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import TD3Config
from rl.learning.distributions import ActionBox
from rl.learning.gradient_step import TargetWeights
from rl.learning.networks.ensemble import ensemble, frozen
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.multi_input import with_actions
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.replay import Batch, UniformReplay


class TD3(Agent):
    """Every `policy_delay`-th update moves the actor and the targets too (algorithm 1).

    Updates are counted by the frames that earned them, so that the delay needs no counter of its own. The
    networks' actions are in [-1, 1]^A; the replay memory holds them as the environment took them.
    """

    Config = TD3Config
    columns = ("policy_loss", "q_mean")

    def __init__(self, context: AgentContext, cfg: TD3Config) -> None:
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.updates_per_frame = Fraction(str(cfg.updates_per_frame))
        self.clock, self.streams, self.device = context.clock, context.streams, context.device
        self.box = ActionBox(context.action_space)
        self.action_shape, self.action_dtype = self.box.shape, np.float32

        obs_shape, network = context.obs_shape, cfg.network
        critic_shape = with_actions(obs_shape, self.box.size)
        self.actor, self.target_actor = (network(obs_shape, self.box.size).to(self.device) for _ in range(2))
        self.critics, self.target_critics = (
            ensemble(network, cfg.num_critics, critic_shape, 1).to(self.device) for _ in range(2)
        )
        self.critic_step = context.gradient_step(self.critics, self._critic_loss, cfg.optimizer)
        self.actor_step = context.gradient_step(self.actor, self._actor_loss, cfg.optimizer)
        self.target_critic_weights = TargetWeights(self.critic_step.flats[0], self.target_critics)
        self.target_actor_weights = TargetWeights(self.actor_step.flats[0], self.target_actor)
        self.mean_action = numpy_forward(self.actor)
        self.obs_normalizer = context.obs_normalizer(cfg.normalize_obs)
        self.replay: UniformReplay = context.replay(self, cfg)

        self.parts = {
            "critics": self.critics,
            "actor": self.actor,
            "target_critics": self.target_critics,
            "target_actor": self.target_actor,
            "critic_optimizer": self.critic_step.optimizers[0],
            "actor_optimizer": self.actor_step.optimizers[0],
            "replay": self.replay,
            **self.obs_normalizer.parts,
        }
        self.policy_parts = ("actor", *self.obs_normalizer.parts)

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """The actor's actions, with normal noise where it explores; uniform ones before learning starts."""
        if explore and self.clock.frames < self.cfg.learning_starts:
            return self.box.uniform(len(obs), rng), state
        action = np.tanh(self.mean_action(self.obs_normalizer(obs)))
        if explore:
            deviation = np.float32(self.cfg.exploration_noise(self.clock.frames))
            action = (action + rng.standard_normal(action.shape, np.float32) * deviation).clip(-1, 1)
        return self.box.stretch(action), state

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, in torch."""
        return Greedy(
            self.obs_normalizer.in_torch, self.actor, lambda action: self.box.stretch_in_torch(action.tanh())
        )

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Remember the rollout, and make the updates that it earned."""
        cfg, frames, replay = self.cfg, self.clock.frames, self.replay
        replay.add(rollout)
        lr = cfg.lr(frames)
        self.critic_step.set_lr(lr)
        self.actor_step.set_lr((cfg.actor_lr or cfg.lr)(frames))
        due = replay.updates_due(frames, rollout.reward.size, self.updates_per_frame)
        for update in due:
            batch = replay.sample(cfg.batch_size, self.streams.replay, frames)
            inputs, noise = self._inputs(batch)
            replay.update_priorities(batch.number, self.critic_step(inputs, noise)["td_error"])
            if update % cfg.policy_delay == 0:
                self.actor_step(inputs.obs)
                self.target_critic_weights.update(cfg.target_tau)
                self.target_actor_weights.update(cfg.target_tau)
        self.clock.updates += len(due)
        self.obs_normalizer.update(rollout.obs[:-1])
        report = self.actor_step.report() | self.critic_step.report()  # loss and grad_norm are the critics'
        return report | {"lr": lr, "explore": cfg.exploration_noise(frames)}

    def _critic_loss(self, critics: Any, batch: Batch, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared errors against the lower target critic at the target actor's smoothed action."""
        with torch.no_grad():
            next_action = (self.target_actor(batch.next_obs).tanh() + noise).clamp(-1, 1)
            next_obs_action = torch.cat([batch.next_obs.flatten(1), self.box.zero_fixed(next_action)], -1)
            next_q = self.target_critics(next_obs_action).squeeze(-1)  # [2, B]
            target = batch.reward + batch.discount * next_q.amin(0)
        q = critics(torch.cat([batch.obs.flatten(1), batch.action], -1)).squeeze(-1)
        error = q - target
        loss = (batch.weight * error.square()).mean(-1).sum()
        td_error = self.critic_step.whole(error.detach().abs().mean(0))
        return loss, {"q_mean": q.detach().mean(), "td_error": td_error}

    def _actor_loss(self, actor: Any, obs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """-Q of the first critic; its weights stay constant."""
        action = self.box.zero_fixed(actor(obs).tanh())
        loss = -frozen(self.critics)(torch.cat([obs.flatten(1), action], -1), first=1).mean()
        return loss, {"policy_loss": loss}

    def _inputs(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The batch for the losses, and the noise of the target's actions [B, A]."""
        obs, next_obs = self.obs_normalizer(batch.obs), self.obs_normalizer(batch.next_obs)
        action = self.box.shrink(batch.action)
        deviation, clip = np.float32(self.cfg.target_noise), self.cfg.target_noise_clip
        noise = self.streams.minibatch.standard_normal(action.shape, np.float32) * deviation
        batch = batch._replace(obs=obs, action=action, next_obs=next_obs)
        clipped = torch.as_tensor(noise.clip(-clip, clip), device=self.device)
        return self.critic_step.share((batch.to(self.device), clipped))  # type: ignore[no-any-return]
