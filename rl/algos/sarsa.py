"""Sarsa (Rummery & Niranjan 1994) with a network: on-policy learning of the values of the policy that
explores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import mse_loss, smooth_l1_loss

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import SarsaConfig
from rl.learning.exploration import Exploration
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.masked import per_action
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.returns import gae
from rl.learning.rollout import flat_tensors


class Sarsa(Agent):
    """Lowers the TD error of Q(s, a) to r + gamma * Q(s', a') (Sutton & Barto 2018, eq. 6.7).

    a' is what the policy does in s': the action of the next step, or one drawn for it where the rollout stops
    or a time limit cut the episode. With `td_lambda` above 0 the targets are lambda-returns (eq. 12.18 with
    action values).
    """

    Config, masks = SarsaConfig, True
    columns = ("q_mean",)

    def __init__(self, context: AgentContext, cfg: SarsaConfig) -> None:
        space = context.discrete_actions()
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.exploration = Exploration(cfg.epsilon, cfg.temperature)
        self.td_loss = {"huber": smooth_l1_loss, "squared": mse_loss}[cfg.loss]
        self.clock, self.rng, self.device = context.clock, context.streams.minibatch, context.device
        self.first_action, self.action_shape, self.action_dtype = int(space.start), (), np.int64

        obs_shape = context.obs_shape
        self.q_network = per_action(cfg.network, obs_shape, int(space.n)).to(self.device)
        self.step = context.gradient_step(self.q_network, self._loss, cfg.optimizer, cfg.max_grad_norm)
        self.values = numpy_forward(self.q_network)
        self.obs_normalizer = context.obs_normalizer(cfg.normalize_obs)

        self.parts = {"q_network": self.q_network, **self.step.parts, **self.obs_normalizer.parts}
        self.policy_parts = ("q_network", *self.obs_normalizer.parts)

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Epsilon-greedy or Boltzmann actions, or the best."""
        value = self.values(self.obs_normalizer(obs))
        action = self.exploration.sample(value, self.clock.frames, rng) if explore else value.argmax(-1)
        return (action + self.first_action if self.first_action else action), state

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, in torch."""
        return Greedy(
            self.obs_normalizer.in_torch, self.q_network, lambda value: value.argmax(-1) + self.first_action
        )

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """One gradient step on the whole rollout."""
        cfg, frames = self.cfg, self.clock.frames
        lr, explore = cfg.lr(frames), self.exploration(frames - rollout.reward.size)  # the policy that acted
        self.step.set_lr(lr)
        self.step(*self.step.share(self._batch(rollout, explore)))
        self.clock.updates += 1
        self.obs_normalizer.update(rollout.obs[:-1])
        return self.step.report() | {"lr": lr, "explore": explore}

    def _loss(
        self, q_network: Any, obs: Tensor, action: Tensor, target: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        q = q_network(obs).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return self.td_loss(q, target), {"q_mean": q.detach().mean()}

    def _batch(self, rollout: Rollout, explore: float) -> tuple[Tensor, ...]:
        """Observations [B, ...], actions [B] and targets [B]."""
        cfg, (rows, n) = self.cfg, rollout.reward.shape
        obs = self.obs_normalizer(rollout.obs)
        values = self.values(obs.reshape(-1, *obs.shape[2:])).reshape(rows + 1, n, -1)
        drawn = self.exploration.choose(values[-1], explore, self.rng)
        action = np.concatenate([rollout.action - self.first_action, drawn[None]])
        value = np.take_along_axis(values, action[..., None], -1)[..., 0]  # [T + 1, N]: Q(s, a)

        def of_last(last: Array, t: list[int], n: list[int]) -> Array:
            values = self.values(self.obs_normalizer(last))
            return values[np.arange(len(values)), self.exploration.choose(values, explore, self.rng)]

        next_value = rollout.next_values(value, of_last)
        advantage = gae(rollout.reward, value[:-1], next_value, *rollout.ends, cfg.gamma, cfg.td_lambda)
        target = (advantage + value[:-1]).astype(np.float32)
        return tuple(flat_tensors(self.device, obs[:-1], action[:-1], target))
