"""Activations between layers, in torch and in NumPy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy import maximum, multiply, tanh
from torch import Tensor, nn
from torch.nn import functional

from rl.learning.networks.numpy_forward import Array

ZERO = np.zeros((), np.float32)
FLOAT32 = ZERO.dtype


def _elu(x: Array, out: Array) -> None:
    out[:] = np.where(x > 0, x, np.expm1(np.minimum(x, ZERO)))


def _gelu(x: Array, out: Array) -> None:
    multiply(x, 0.5 * (tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)) + 1), out)


# by name: in torch, in place where the gradient needs the output alone, and in NumPy, of input and output
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Array, Array], object]]] = {
    "tanh": (torch.tanh_, tanh),
    "relu": (torch.relu_, lambda x, out: maximum(x, ZERO, out=out)),
    "leaky_relu": (functional.leaky_relu_, lambda x, out: maximum(x, 0.01 * x, out=out)),  # type: ignore[attr-defined]
    "elu": (functional.elu_, _elu),  # type: ignore[attr-defined]
    "silu": (functional.silu, lambda x, out: multiply(x, 0.5 * (tanh(0.5 * x) + 1), out)),
    "gelu": (functools.partial(functional.gelu, approximate="tanh"), _gelu),
}


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """x W^T + b, as functional.linear has it.

    In a graph one loop adds the bias and applies the activation; the kernel of functional.linear would first
    copy the bias to every row of the result: 5 % of a step of small networks.
    """
    if torch.compiler.is_compiling():
        return x @ layer.weight.T + layer.bias
    return functional.linear(x, layer.weight, layer.bias)
