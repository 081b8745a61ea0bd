"""A network as a function from and to NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float32]
NetworkFactory = Callable[..., nn.Module]  # called with (obs_shape, num_outputs, out_gain=..., quantiles=...)


def numpy_forward(network: nn.Module) -> Callable[..., Array]:
    """A network as a function from and to NumPy: by NumPy alone where it lives on the CPU and offers that."""
    device = next(network.parameters()).device
    offered: Callable[[], Callable[..., Array]] | None = getattr(network, "numpy_forward", None)
    if offered is not None and device.type == "cpu":
        return offered()

    @torch.inference_mode()
    def by_torch(*inputs: Array) -> Array:
        result: Array = network(*(torch.as_tensor(array, device=device) for array in inputs)).cpu().numpy()
        return result

    return by_torch
