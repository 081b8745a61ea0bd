"""A policy network, alone and with a value function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.learning.distributions import Distribution
from rl.learning.networks.masked import hide, hide_in_numpy
from rl.learning.networks.numpy_forward import (
    Array,
    NetworkFactory,
    NumpyFunction,
    by_numpy,
    follow_weights,
    memory,
    numpy_forward,
)


class Policy(nn.Module):
    """A network whose outputs are the parameters of an action distribution.

    A Gaussian's log standard deviations do not depend on the observation: they are one learned vector. The
    parameters of masked actions are MASKED (`rl.learning.masks`).
    """

    def __init__(
        self,
        network: NetworkFactory,
        obs_shape: Sequence[int],
        distribution: Distribution,
        out_gain: float = 0.01,
        num_extra: int = 0,
        log_std_init: float = 0.0,
    ) -> None:
        """`num_extra` more outputs of the same network serve another purpose (see `with_extra`)."""
        super().__init__()
        means = self.num_means = distribution.num_means
        self.num_extra = num_extra
        gain: Any = [out_gain] * means + [1.0] * num_extra if num_extra else out_gain
        self.network = network(obs_shape, means + num_extra, out_gain=gain)
        self.mask_size = getattr(network, "mask_size", 0)  # the last columns of its inputs
        num_log_std = distribution.num_params - means
        self.log_std = nn.Parameter(torch.full((num_log_std,), log_std_init)) if num_log_std else None

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_params]."""
        return self.with_extra(obs)[0] if self.num_extra else self._complete(self.network(obs), obs)

    def with_extra(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """[B, *obs_shape] -> [B, num_params] and [B, num_extra]."""
        means, extra = self.network(obs).tensor_split((self.num_means,), -1)
        return self._complete(means, obs), extra

    def _complete(self, means: Tensor, obs: Tensor) -> Tensor:
        """With the log standard deviations, or without what is masked."""
        if self.mask_size:
            return hide(means, obs[:, -self.mask_size :])
        if self.log_std is None:
            return means
        return torch.cat([means, self.log_std.expand(means.shape[0], -1)], -1)

    def by_numpy(self) -> NumpyFunction:
        """`forward` over the memory where the weights are now."""
        if self.log_std is None and not self.num_extra and not self.mask_size:
            return by_numpy(self.network)
        forward = self._with_extra_by_numpy()
        return lambda obs, extra: forward(obs, extra)[0]

    def _with_extra_by_numpy(self) -> NumpyFunction:
        network, count, mask_size = by_numpy(self.network), self.num_means, self.mask_size
        log_std = None if self.log_std is None else memory(self.log_std)

        def forward(obs: Array, extra: Array | None) -> tuple[Array, Array]:
            outputs = network(obs, extra)
            means, others = outputs[:, :count], outputs[:, count:]
            if mask_size:
                return hide_in_numpy(means, obs[:, -mask_size:]), others
            if log_std is None:
                return means, others
            params = np.empty((len(means), count + len(log_std)), np.float32)
            params[:, :count] = means
            params[:, count:] = log_std
            return params, others

        return forward

    numpy_forward = numpy_forward

    def numpy_with_extra(self) -> Callable[[Array], tuple[Array, Array]]:
        """`with_extra` from and to NumPy."""
        return follow_weights(self, self._with_extra_by_numpy, self.with_extra)


class ActorCritic(nn.Module):
    """A policy and a value function: two networks, or with `shared` one whose last output is the value.

    Of two networks the policy's comes first in `parameters()`.
    """

    def __init__(
        self,
        network: NetworkFactory,
        obs_shape: Sequence[int],
        distribution: Distribution,
        *,
        shared: bool,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__()
        num_extra = 1 if shared else 0
        self.policy = Policy(network, obs_shape, distribution, num_extra=num_extra, log_std_init=log_std_init)
        self.value: nn.Module | None = None if shared else network(obs_shape, 1, out_gain=1.0)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """[B, *obs_shape] -> the policy's params [B, num_params] and the values [B]."""
        if self.value is None:
            params, value = self.policy.with_extra(obs)
        else:
            params, value = self.policy(obs), self.value(obs)
        return params, value.squeeze(-1)

    def numpy_policy(self) -> Callable[[Array], Array]:
        """The policy's params [N, num_params], from and to NumPy: what acting needs."""
        return numpy_forward(self.policy)

    def numpy_forward(self) -> Callable[[Array], tuple[Array, Array]]:
        """`forward` of a shared network, from and to NumPy."""
        assert self.value is None
        with_extra = self.policy.numpy_with_extra()

        def forward(obs: Array) -> tuple[Array, Array]:
            params, values = with_extra(obs)
            return params, values[:, -1]

        return forward

    def numpy_value(self) -> Callable[[Array], Array]:
        """The values [N], from and to NumPy."""
        outputs = numpy_forward(self.policy.network if self.value is None else self.value)
        return lambda obs: outputs(obs)[:, -1]
