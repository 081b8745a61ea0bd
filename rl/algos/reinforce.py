"""REINFORCE (Williams 1992): policy gradient with returns-to-go, optionally with a learned baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import ReinforceConfig
from rl.learning.distributions import distribution_for
from rl.learning.networks.greedy import Greedy
from rl.learning.networks.policy import Policy
from rl.learning.returns import ends_within, returns_to_go
from rl.learning.rollout import flat_tensors


class Reinforce(Agent):
    """One update from each rollout: the gradient of sum_t log pi(a_t | s_t) * G_t, averaged over the steps.

    A rollout stops in the middle of episodes. The steps of an episode that goes on are never counted as if it
    had ended: without a baseline their return is not known and they get weight 0; with one, the baseline's
    value of the last observation stands for the rest. The same holds for an episode cut off by a time limit,
    except that without a baseline the return up to the limit is taken as it is.
    """

    Config, masks = ReinforceConfig, True
    columns = ("policy_loss", "value_loss")
    policy_parts = ("policy",)

    def __init__(self, context: AgentContext, cfg: ReinforceConfig) -> None:
        self.cfg, self.rollout_length = cfg, cfg.rollout_length
        self.clock, self.device = context.clock, context.device
        self.distribution = distribution_for(context.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype

        obs_shape = context.obs_shape
        self.policy = Policy(cfg.network, obs_shape, self.distribution)
        self.value = cfg.network(obs_shape, 1, out_gain=1.0) if cfg.baseline else None
        learned = [self.policy] if self.value is None else [self.policy, self.value]
        networks = nn.ModuleList(learned).to(self.device)
        self.step = context.gradient_step(networks, self._loss, cfg.optimizer, cfg.max_grad_norm)
        self.policy_params, self.inputs = self.policy.numpy_forward(), context.obs_normalizer(False)

        self.parts = {"policy": self.policy, **self.step.parts}
        if self.value is not None:
            self.parts["value"] = self.value

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Sampled actions, or the policy's mode."""
        params = self.policy_params(self.inputs(obs))
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, in torch."""
        return Greedy(self.inputs.in_torch, self.policy, self.distribution.mode_in_torch)

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """One gradient step on the whole rollout."""
        lr, entropy_coef = self.cfg.lr(self.clock.frames), self.cfg.entropy_coef(self.clock.frames)
        obs = self.inputs(rollout.obs[:-1])
        batch = flat_tensors(self.device, obs, rollout.action, *self._returns(rollout))
        self.step.set_lr(lr)
        self.step(*batch, entropy_coef)
        self.clock.updates += 1
        return self.step.report() | {"lr": lr, "entropy_coef": entropy_coef}

    def _loss(
        self, networks: Any, obs: Tensor, action: Tensor, returns: Tensor, weight: Tensor, entropy_coef: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-sum log pi(a | s) * (G - V(s)), averaged over the steps of weight 1; all inputs are [B, ...]."""
        cfg, policy, total = self.cfg, networks[0], weight.sum().clamp(min=1.0)
        advantage, report = returns, {}
        if cfg.baseline:
            value = networks[1](obs).squeeze(-1)
            report["value_loss"] = ((value - returns) ** 2 * weight).sum() / total
            advantage = returns - value.detach()
        mean = (advantage * weight).sum() / total
        std = (((advantage - mean) ** 2 * weight).sum() / total).sqrt()
        if cfg.center_returns:
            advantage = advantage - mean
        if cfg.standardize_returns:
            advantage = advantage / (std + 1e-8)
        params = policy(obs)
        log_prob = self.distribution.log_prob(params, action)
        entropy = self.distribution.entropy(params).mean()
        policy_loss = -(log_prob * advantage * weight).sum() / total
        value_loss = report.get("value_loss", torch.zeros((), device=obs.device))
        loss = policy_loss + cfg.value_coef * value_loss - entropy_coef * entropy
        return loss, {**report, "policy_loss": policy_loss, "entropy": entropy}

    @torch.no_grad()
    def _returns(self, rollout: Rollout) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return-to-go of each step and its weight, both [T, N]."""
        done, gamma = rollout.done, self.cfg.gamma
        successor = np.zeros(done.shape, np.float32)
        if self.value is None:
            returns = returns_to_go(rollout.reward, done, successor, gamma)
            return returns.astype(np.float32), ends_within(done).astype(np.float32)
        goes_on = rollout.truncated & ~rollout.terminated
        goes_on[-1] |= ~rollout.terminated[-1]  # the rollout stops here, the episode does not
        if goes_on.any():
            next_obs = torch.as_tensor(self.inputs(rollout.next_obs[goes_on]), device=self.device)
            successor[goes_on] = self.value(next_obs).squeeze(-1).cpu().numpy()
        returns = returns_to_go(rollout.reward, done, successor, gamma)
        return returns.astype(np.float32), np.ones(done.shape, np.float32)
