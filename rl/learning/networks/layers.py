"""The layers of fully connected networks, each in torch and in NumPy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rl.learning.networks.numpy_forward import Layer

_gelu: Callable[[Tensor], Tensor] = functools.partial(functional.gelu, approximate="tanh")
_GELU = f"x *= 0.5 * (tanh({math.sqrt(2 / math.pi)} * (x + 0.044715 * x * x * x)) + 1)"

# by name: in torch, in place where the gradient needs the output alone, and as NumPy statements
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "tanh": (torch.tanh_, "tanh(x, x)"),
    "relu": (torch.relu_, "maximum(x, zero, out=x)"),
    "leaky_relu": (functional.leaky_relu_, "maximum(x, 0.01 * x, out=x)"),  # type: ignore[attr-defined]
    "elu": (functional.elu_, "x = where(x > 0, x, expm1(minimum(x, zero)))"),  # type: ignore[attr-defined]
    "silu": (functional.silu, "x *= 0.5 * (tanh(0.5 * x) + 1)"),
    "gelu": (_gelu, _GELU),
}


class TorchLayer(Layer):
    """A layer that torch can evaluate too."""

    def torch(self, x: Tensor, *extra: Tensor) -> Tensor:
        """What the NumPy statements do to `x`, as an operation of torch."""
        raise NotImplementedError


class Flatten(TorchLayer):
    """Observations [B, ...] of any type -> float32 [B, F]."""

    def __init__(self) -> None:
        super().__init__(
            "if x.ndim != 2: x = x.reshape(len(x), -1)\nif x.dtype is not float32: x = x.astype(float32)"
        )

    def torch(self, x: Tensor, *extra: Tensor) -> Tensor:
        """[B, ...] -> [B, F]."""
        return x.flatten(1).float()


class Activation(TorchLayer):
    """One of ACTIVATIONS."""

    def __init__(self, name: str) -> None:
        self.function, numpy = ACTIVATIONS[name]
        super().__init__(numpy)

    def torch(self, x: Tensor, *extra: Tensor) -> Tensor:
        """The activation, in place if the gradient allows it."""
        return self.function(x)


class Linear(TorchLayer):
    """x W^T + b."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        super().__init__("x = dot(x, linear.weight.T)\nadd(x, linear.bias, x)", linear=linear)

    def torch(self, x: Tensor, *extra: Tensor) -> Tensor:
        """[B, in] -> [B, out]."""
        return functional.linear(x, self.linear.weight, self.linear.bias)


class NoisyLinear(TorchLayer):
    """A linear layer whose weights are noisy; its noise begins at column `start` of the extra input."""

    def __init__(self, mean: nn.Linear, sigma: nn.Linear, start: int) -> None:
        self.mean, self.sigma = mean, sigma
        middle = start + mean.in_features
        self.inputs, self.outputs = slice(start, middle), slice(middle, middle + mean.out_features)
        numpy = (
            "perturbation = None if extra is None else "
            "(dot(x * extra[:, inputs], sigma.weight.T) + sigma.bias) * extra[:, outputs]\n"
            "x = dot(x, mean.weight.T)\nadd(x, mean.bias, x)\n"
            "if extra is not None: add(x, perturbation, x)"
        )
        super().__init__(numpy, mean=mean, sigma=sigma, inputs=self.inputs, outputs=self.outputs)

    def torch(self, x: Tensor, *extra: Tensor) -> Tensor:
        """[B, in] and noise, or none -> [B, out]."""
        y = functional.linear(x, self.mean.weight, self.mean.bias)
        if not extra:
            return y
        (noise,) = extra
        perturbation = functional.linear(x * noise[:, self.inputs], self.sigma.weight, self.sigma.bias)
        return y + perturbation * noise[:, self.outputs]


class LayerNorm(TorchLayer):
    """Layer normalisation of [B, F]."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.norm = norm
        (size,) = norm.normalized_shape
        numpy = (
            "x -= dot(x, average)[:, None]\n"  # a product takes 1 us, `mean` 5
            f"x /= sqrt(dot(x * x, average) + {norm.eps})[:, None]\n"
            "x *= norm.weight\nx += norm.bias"
        )
        super().__init__(numpy, norm=norm, average=np.full(size, 1 / size, np.float32))

    def torch(self, x: Tensor, *extra: Tensor) -> Tensor:
        """[B, F] -> [B, F]."""
        y: Tensor = self.norm(x)
        return y


class Quantiles(TorchLayer):
    """[B, A * Q] -> [B, A, Q]."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__("x = x.reshape(len(x), -1, count)", count=count)

    def torch(self, x: Tensor, *extra: Tensor) -> Tensor:
        """[B, A * Q] -> [B, A, Q]."""
        return x.unflatten(-1, (-1, self.count))


class DuelingHead(TorchLayer):
    """V(s) and A(s, a), [B, 1 + A, ...] -> V + A - mean of A (Wang et al. 2016, eq. 9)."""

    def __init__(self) -> None:
        super().__init__("advantage = x[:, 1:]\nx = x[:, :1] + advantage - advantage.mean(1, keepdims=True)")

    def torch(self, x: Tensor, *extra: Tensor) -> Tensor:
        """[B, 1 + A, ...] -> [B, A, ...]."""
        value, advantage = x.tensor_split((1,), 1)
        return value + advantage - advantage.mean(1, keepdim=True)
