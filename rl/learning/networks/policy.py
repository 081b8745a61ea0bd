"""A policy network, alone and with a value function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rl.learning.distributions import Distribution
from rl.learning.networks.numpy_forward import Array, NetworkFactory, numpy_forward


class Policy(nn.Module):
    """A network whose outputs are the parameters of an action distribution.

    A Gaussian's log standard deviations do not depend on the observation: they are one learned vector.
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
        """`num_extra`: outputs of the same network, after the policy's, for another purpose (see
        `with_extra`); `log_std_init`: a Gaussian's log standard deviations before training.
        """
        super().__init__()
        means = self.num_means = distribution.num_means
        self.num_extra = num_extra
        self.network = network(
            obs_shape,
            means + num_extra,
            out_gain=[out_gain] * means + [1.0] * num_extra if num_extra else out_gain,
        )
        free = distribution.num_params - distribution.num_means
        self.log_std = nn.Parameter(torch.full((free,), log_std_init)) if free else None

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_params]."""
        return self.with_extra(obs)[0] if self.num_extra else self._with_log_std(self.network(obs))

    def with_extra(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """[B, *obs_shape] -> [B, num_params] and [B, num_extra]."""
        means, extra = self.network(obs).tensor_split((self.num_means,), -1)
        return self._with_log_std(means), extra

    def _with_log_std(self, means: Tensor) -> Tensor:
        return means if self.log_std is None else torch.cat([means, self.log_std.expand(len(means), -1)], -1)

    def numpy_forward(self) -> Callable[[Array], Array]:
        """`forward` from and to NumPy: [N, *obs_shape] -> [N, num_params]; by NumPy alone where the network
        can.
        """
        if self.num_extra:
            both = self.numpy_with_extra()
            return lambda obs: both(obs)[0]
        means, complete = numpy_forward(self.network), self._with_log_std_in_numpy()
        return means if self.log_std is None else lambda obs: complete(means(obs))

    def numpy_with_extra(self) -> Callable[[Array], tuple[Array, Array]]:
        """`with_extra` from and to NumPy."""
        outputs, complete, count = numpy_forward(self.network), self._with_log_std_in_numpy(), self.num_means

        def forward(obs: Array) -> tuple[Array, Array]:
            both = outputs(obs)
            return complete(both[:, :count]), both[:, count:]

        return forward

    def _with_log_std_in_numpy(self) -> Callable[[Array], Array]:
        if self.log_std is None:
            return lambda means: means
        log_std = self.log_std.detach()
        return lambda means: np.concatenate(
            [means, np.broadcast_to(log_std.cpu().numpy(), (len(means), len(log_std)))], -1
        )


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
        self.policy = Policy(
            network, obs_shape, distribution, num_extra=1 if shared else 0, log_std_init=log_std_init
        )
        self.value: nn.Module | None = None if shared else network(obs_shape, 1, out_gain=1.0)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """[B, *obs_shape] -> the policy's params [B, num_params] and the values [B]."""
        params, value = (
            self.policy.with_extra(obs) if self.value is None else (self.policy(obs), self.value(obs))
        )
        return params, value.squeeze(-1)

    def numpy_policy(self) -> Callable[[Array], Array]:
        """The policy's params [N, num_params], from and to NumPy: what acting needs."""
        return self.policy.numpy_forward()

    def numpy_forward(self) -> Callable[[Array], tuple[Array, Array]]:
        """`forward` of a shared network, from and to NumPy."""
        assert self.value is None
        forward = self.policy.numpy_with_extra()

        def both(obs: Array) -> tuple[Array, Array]:
            params, value = forward(obs)
            return params, value[:, 0]

        return both

    def numpy_value(self) -> Callable[[Array], Array]:
        """The values [N], from and to NumPy."""
        forward = numpy_forward(self.policy.network if self.value is None else self.value)
        return lambda obs: forward(obs)[:, -1]
