"""Networks as functions from and to NumPy.

Acting on a CPU is bound by dispatch, not by arithmetic: for a batch of 4, torch takes 60 to 90 us and NumPy
over the same memory 6. So a network may have a method `by_numpy`: its forward pass as a NumPy function over
the memory where its weights are now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float32]
NetworkFactory = Callable[..., nn.Module]  # called with (obs_shape, num_outputs, out_gain=..., quantiles=...)
NumpyFunction = Callable[[Array, Array | None], Any]  # of a network's input, and its second input or None


def memory(tensor: Tensor) -> Array:
    """The memory of a tensor on the CPU as an array."""
    return tensor.detach().numpy()  # type: ignore[no-any-return]


def linear_memory(linear: nn.Linear) -> tuple[Array, Array]:
    """The transposed weight [in, out] and the bias [1, out]: added to one row, faster than [out]."""
    return memory(linear.weight).T, memory(linear.bias)[None]


def by_numpy(network: nn.Module) -> NumpyFunction:
    """`network.by_numpy()`, or if its class has none for its own `forward`, a function that calls torch."""
    kind, forward = (
        next((kind for kind in type(network).__mro__ if name in vars(kind)), object)
        for name in ("by_numpy", "forward")
    )
    if kind is object or not issubclass(kind, forward):  # a subclass with another forward
        return by_torch(network, network)
    return network.by_numpy()  # type: ignore[operator, no-any-return]


def by_torch(network: nn.Module, forward: Callable[..., Any]) -> NumpyFunction:
    """`forward`, a function of tensors that uses the network's weights, from and to NumPy by torch."""

    @torch.inference_mode()
    def function(x: Array, extra: Array | None) -> Any:
        device = next(network.parameters()).device
        inputs = (x,) if extra is None else (x, extra)
        outputs = forward(*(torch.as_tensor(array, device=device) for array in inputs))
        if isinstance(outputs, Tensor):
            return outputs.cpu().numpy()
        return tuple(output.cpu().numpy() for output in outputs)

    return function


def numpy_forward(network: nn.Module) -> Callable[..., Any]:
    """`network` as a function from and to NumPy; it follows the weights wherever they move."""
    return follow_weights(network, lambda: by_numpy(network), network)


def follow_weights(
    network: nn.Module, make: Callable[[], NumpyFunction], forward: Callable[..., Any]
) -> Callable[..., Any]:
    """The function that `make` returns, made anew when the weights move; off the CPU, `forward` by torch.

    Each call compares the addresses of the network's first and last tensor with those when it was made:
    flattening, `.to()` and `load_state_dict(assign=True)` move them. (A tensor between them that is swapped
    alone goes unnoticed: comparing all six of a small MLP would take another 0.5 us.)
    """
    holders: list[dict[str, Any]] = [
        holder for module in network.modules() for holder in (module._parameters, module._buffers)
    ]
    slots = [(holder, name) for holder in holders for name in holder if holder[name] is not None]
    (first_holder, first), (last_holder, last) = slots[0], slots[-1]
    first_address = last_address = -1
    function: NumpyFunction = by_torch(network, forward)

    def remake() -> None:
        nonlocal function, first_address, last_address
        tensors = [holder[name] for holder, name in slots]
        on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
        function = make() if on_cpu else by_torch(network, forward)
        first_address, last_address = tensors[0].data_ptr(), tensors[-1].data_ptr()

    def call(x: Array, extra: Array | None = None) -> Any:
        if first_holder[first].data_ptr() != first_address or last_holder[last].data_ptr() != last_address:
            remake()
        return function(x, extra)

    return call
