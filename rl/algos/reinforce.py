"""REINFORCE (Williams 1992): policy gradient with returns-to-go, optionally with a learned baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl.algos.agent import Agent, Recurrent, Rollout, Setting
from rl.config.schedule import Schedule
from rl.learning.distributions import distribution_for
from rl.learning.gradient_step import clip_gradient, flatten_parameters
from rl.learning.networks.numpy_forward import NetworkFactory
from rl.learning.networks.policy import Policy
from rl.learning.returns import ends_within, returns_to_go


class Reinforce(Agent):
    """One update from each rollout: the gradient of sum_t log pi(a_t | s_t) * G_t, averaged over the steps.

    A rollout stops in the middle of episodes. The steps of an episode that goes on are never counted as if it
    had ended: without a baseline their return is not known and they get weight 0; with one, the baseline's
    value of the last observation stands for the rest. The same holds for an episode cut off by a time limit,
    except that without a baseline the return up to the limit is taken as it is.
    """

    columns = ("policy_loss", "value_loss")
    playing = ("policy",)

    def __init__(
        self,
        setting: Setting,
        *,
        gamma: float,
        rollout_length: int,
        lr: Schedule,
        entropy_coef: Schedule,
        center_returns: bool,
        standardize_returns: bool,
        max_grad_norm: float | None,
        baseline: bool,
        value_coef: float,
        network: NetworkFactory,
        optimizer: Any,
    ) -> None:
        self.rollout_length = rollout_length
        self.gamma, self.lr, self.entropy_coef = gamma, lr, entropy_coef
        self.center_returns, self.standardize_returns = center_returns, standardize_returns
        self.max_grad_norm, self.value_coef = max_grad_norm, value_coef
        self.clock, self.device = setting.clock, setting.device

        self.distribution = distribution_for(setting.action_space)
        self.action_shape, self.action_dtype = self.distribution.action_shape, self.distribution.action_dtype
        obs_shape = setting.obs_space.shape
        self.policy = Policy(network, obs_shape, self.distribution)
        self.value = network(obs_shape, 1, out_gain=1.0) if baseline else None
        networks = nn.ModuleList([self.policy] if self.value is None else [self.policy, self.value]).to(
            self.device
        )
        self.flat = flatten_parameters(networks)
        self.optimizer: torch.optim.Optimizer = optimizer([self.flat], lr=lr(0))
        self.policy_params = self.policy.numpy_forward()
        self.loss = torch.compile(self._loss, dynamic=False) if setting.compile else self._loss

        self.parts = {"policy": self.policy, "optimizer": self.optimizer}
        if self.value is not None:
            self.parts["value"] = self.value

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Sampled actions, or the policy's mode."""
        params = self.policy_params(obs)
        return (self.distribution.sample(params, rng) if explore else self.distribution.mode(params)), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """One gradient step on the whole rollout."""
        returns, weight = self._returns(rollout)
        tensors = (rollout.obs[:-1], rollout.action, returns, weight)
        obs, action, target, mask = (
            torch.as_tensor(a.reshape(-1, *a.shape[2:]), device=self.device) for a in tensors
        )
        lr, entropy_coef = self.lr(self.clock.frames), self.entropy_coef(self.clock.frames)
        assert self.flat.grad is not None
        self.flat.grad.zero_()
        loss, policy_loss, value_loss, entropy = self.loss(
            obs, action, target, mask, torch.tensor(entropy_coef)
        )
        loss.backward()
        grad_norm = clip_gradient(self.flat, self.max_grad_norm)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.clock.updates += 1
        report = {
            "loss": loss.detach(),
            "policy_loss": policy_loss.detach(),
            "entropy": entropy.detach(),
            "grad_norm": grad_norm,
        }
        if self.value is not None:
            report["value_loss"] = value_loss.detach()
        return {name: float(value) for name, value in report.items()} | {
            "lr": lr,
            "entropy_coef": entropy_coef,
        }

    @torch.no_grad()
    def _returns(self, rollout: Rollout) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return-to-go of each step and its weight, both [T, N]."""
        done = rollout.done
        successor = np.zeros(done.shape, np.float32)
        if self.value is None:
            return returns_to_go(rollout.reward, done, successor, self.gamma).astype(np.float32), ends_within(
                done
            ).astype(np.float32)
        goes_on = rollout.truncated & ~rollout.terminated
        goes_on[-1] |= ~rollout.terminated[-1]  # the rollout stops here, the episode does not
        if goes_on.any():
            next_obs = torch.as_tensor(rollout.next_obs[goes_on], device=self.device)
            successor[goes_on] = self.value(next_obs).squeeze(-1).cpu().numpy()
        returns = returns_to_go(rollout.reward, done, successor, self.gamma)
        return returns.astype(np.float32), np.ones(done.shape, np.float32)

    def _loss(
        self, obs: Tensor, action: Tensor, target: Tensor, weight: Tensor, entropy_coef: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Total, policy and value loss, and entropy (all 0-d), from [B] steps."""
        total = weight.sum().clamp(min=1.0)
        value_loss = torch.zeros((), device=obs.device)
        advantage = target
        if self.value is not None:
            value = self.value(obs).squeeze(-1)
            value_loss = ((value - target) ** 2 * weight).sum() / total
            advantage = target - value.detach()
        mean = (advantage * weight).sum() / total
        std = (((advantage - mean) ** 2 * weight).sum() / total).sqrt()
        if self.center_returns:
            advantage = advantage - mean
        if self.standardize_returns:
            advantage = advantage / (std + 1e-8)
        params = self.policy(obs)
        log_prob = self.distribution.log_prob(params, action)
        entropy = self.distribution.entropy(params).mean()
        policy_loss = -(log_prob * advantage * weight).sum() / total
        return (
            policy_loss + self.value_coef * value_loss - entropy_coef * entropy,
            policy_loss,
            value_loss,
            entropy,
        )
