"""PQN (Gallici et al. 2024): Q-learning from many environments at once, with neither a replay memory nor a
target network.

What makes them dispensable is a network with layer normalisation: conf/algo/pqn.yaml.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, smooth_l1_loss

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import PQNConfig
from rl.learning.exploration import Exploration
from rl.learning.networks.cnn import channels_last, select
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.masked import per_action
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.returns import gae
from rl.learning.rollout import flat_tensors


class PQN(Agent):
    """Several epochs on each rollout towards its Q(lambda) returns (Peng & Williams 1996), of steps t = 0 ...
    T - 1:

    R_t = r_t + gamma * (lambda * R_{t+1} + (1 - lambda) * max Q(s'_t, .)), where r_t + gamma * max Q(s'_t, .)
    stands for the last.
    """

    Config, masks = PQNConfig, True
    columns = ("q_mean",)

    def __init__(self, context: AgentContext, cfg: PQNConfig) -> None:
        space = context.discrete_actions()
        self.batch_size = context.batch_size(cfg)
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
        """`epochs` passes over the rollout in shuffled minibatches."""
        cfg, frames = self.cfg, self.clock.frames
        lr, explore = cfg.lr(frames), self.exploration(frames - rollout.reward.size)  # the policy that acted
        self.step.set_lr(lr)
        batch = self._batch(rollout)
        for _ in range(cfg.epochs):
            order = torch.from_numpy(self.rng.permutation(self.batch_size)).to(self.device)
            for index in order.split(cfg.minibatch_size):
                self.step(*batch, self.step.share(index))
                self.clock.updates += 1
        self.obs_normalizer.update(rollout.obs[:-1])
        return self.step.report() | {"lr": lr, "explore": explore}

    def _loss(
        self, q_network: Any, obs: Tensor, action: Tensor, target: Tensor, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the minibatch `index` [M] of the batch."""
        q = q_network(select(obs, index)).gather(-1, action.index_select(0, index).unsqueeze(-1)).squeeze(-1)
        return self.td_loss(q, target.index_select(0, index)), {"q_mean": q.detach().mean()}

    def _batch(self, rollout: Rollout) -> list[Tensor]:
        """Observations [B, ...], actions [B] and targets [B].

        The returns are generalised advantages of V = max Q, and V.
        """
        value, next_value = rollout.values(lambda obs: self.values(self.obs_normalizer(obs)).max(-1))
        advantage = gae(rollout.reward, value, next_value, *rollout.ends, self.cfg.gamma, self.cfg.td_lambda)
        target = (advantage + value).astype(np.float32)
        inputs, taken = self.obs_normalizer(rollout.obs[:-1]), rollout.action - self.first_action
        obs, *others = flat_tensors(self.device, inputs, taken, target)
        return [channels_last(obs), *others]
