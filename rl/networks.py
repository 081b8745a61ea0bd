"""Networks, and the policy that acts through them.

Acting on a CPU is bound by dispatch, not by arithmetic: for a batch of 4, torch takes 60 to 90 us and NumPy over the same
memory 20 us. So a network may offer `numpy_forward`, and the policy acts with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl.distributions import Distribution

Array = NDArray[np.float32]
NetworkFactory = Callable[..., nn.Module]  # called with (obs_shape, num_outputs, out_gain=...)

_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


class MLP(nn.Module):
    """Fully connected layers from flat observations [B, *obs_shape] to [B, num_outputs].

    `orthogonal` weights have gain sqrt(2), `out_gain` in the last layer, and zero biases (Andrychowicz et al. 2021).
    """

    def __init__(
        self, obs_shape: Sequence[int], num_outputs: int, *, hidden: Sequence[int], activation: str, init: str, out_gain: float = 1.0
    ) -> None:
        super().__init__()
        self.activation = activation
        sizes = [math.prod(obs_shape), *hidden, num_outputs]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.Sequential(*itertools.chain(*((layer, _ACTIVATIONS[activation]()) for layer in layers[:-1])), layers[-1])
        if init == "orthogonal":
            for linear in layers:
                nn.init.orthogonal_(linear.weight, out_gain if linear is layers[-1] else math.sqrt(2))
                nn.init.zeros_(linear.bias)

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs]."""
        result: Tensor = self.layers(obs.flatten(1).float())  # observations may be bytes
        return result

    def numpy_forward(self) -> Callable[[Array], Array]:
        """`forward` in NumPy on the same memory: it sees every update made in place. Valid until the weights move."""
        linears = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        layers = [(linear.weight.detach().numpy().T, linear.bias.detach().numpy()) for linear in linears]
        *inner, (last_weight, last_bias) = layers
        relu = self.activation == "relu"

        def forward(obs: Array) -> Array:
            x = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
            for weight, bias in inner:
                x = x @ weight + bias
                x = np.maximum(x, 0, out=x) if relu else np.tanh(x, out=x)
            return x @ last_weight + last_bias

        return forward


class Policy(nn.Module):
    """A network whose outputs are the parameters of an action distribution.

    A Gaussian's log standard deviations do not depend on the observation: they are one learned vector.
    """

    def __init__(self, network: NetworkFactory, obs_shape: Sequence[int], distribution: Distribution, out_gain: float = 0.01) -> None:
        super().__init__()
        self.network = network(obs_shape, distribution.num_means, out_gain=out_gain)
        free = distribution.num_params - distribution.num_means
        self.log_std = nn.Parameter(torch.zeros(free)) if free else None

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_params]."""
        params = self.network(obs)
        return params if self.log_std is None else torch.cat([params, self.log_std.expand(len(params), -1)], -1)

    def numpy_forward(self) -> Callable[[Array], Array]:
        """`forward` from and to NumPy: [N, *obs_shape] -> [N, num_params]; by NumPy alone where the network can."""
        parameter = next(self.parameters())
        if parameter.device.type != "cpu" or not isinstance(self.network, MLP):
            return self._torch_forward
        means = self.network.numpy_forward()
        if self.log_std is None:
            return means
        log_std = self.log_std.detach().numpy()
        return lambda obs: np.concatenate([means(obs), np.broadcast_to(log_std, (len(obs), len(log_std)))], -1)

    @torch.inference_mode()
    def _torch_forward(self, obs: Array) -> Array:
        device = next(self.parameters()).device
        return self(torch.as_tensor(obs, device=device)).cpu().numpy()


def flatten_parameters(module: nn.Module) -> nn.Parameter:
    """Lay a module's parameters and their gradients out in one vector [P], and return it.

    The module's parameters become views of it, so one fused optimizer step on the vector updates them all: 24 us where
    twelve separate tensors take 59 (fused) to 357. Call it once, after the module is on its device.
    """
    parameters = list(module.parameters())
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    for parameter, data, grad in zip(parameters, _split(flat.detach(), parameters), _split(flat.grad, parameters), strict=True):
        parameter.data = data
        parameter.grad = grad
    return flat


def _split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = vector.split([p.numel() for p in like])
    return [part.view(p.shape) for part, p in zip(parts, like, strict=True)]


def clip_gradient(flat: nn.Parameter, max_norm: float | None) -> Tensor:
    """Scale the gradient of a flat vector to at most `max_norm`, in place; its norm before is returned (0-d)."""
    assert flat.grad is not None
    norm = torch.linalg.vector_norm(flat.grad)
    if max_norm is not None:
        flat.grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
