"""Networks as functions from and to NumPy.

Acting on a CPU is bound by dispatch, not by arithmetic: for a batch of 4, torch takes 60 to 90 us and NumPy
over the same memory 6. So a network may describe its forward pass as a list of layers, `numpy_layers()`, and
acts by one Python function made of their statements: a function call for each layer would cost another 4 %.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float32]
NetworkFactory = Callable[..., nn.Module]  # called with (obs_shape, num_outputs, out_gain=..., quantiles=...)


class Layer:
    """NumPy statements that turn `x`, and the network's second input `extra` or None, into the next `x`.

    `names` are what they use: numbers, arrays, functions, and modules, whose parameters and buffers are read
    as `module.name` or `module.name.T`. `x` may be changed in place, except by the first layer.
    """

    def __init__(self, numpy: str, **names: Any) -> None:
        self.numpy, self.names = numpy, names


def layers_of(network: nn.Module) -> list[Layer]:
    """A network's list of layers; if its class has none for its own `forward`, one layer that calls torch."""
    lists, forward = (
        next((kind for kind in type(network).__mro__ if name in vars(kind)), object)
        for name in ("numpy_layers", "forward")
    )
    if lists is object or not issubclass(lists, forward):  # a subclass with another forward
        return [Layer("x = by_torch(x) if extra is None else by_torch(x, extra)", by_torch=by_torch(network))]
    layers: list[Layer] = network.numpy_layers()  # type: ignore[operator]
    return layers


def numpy_forward(network: nn.Module) -> Callable[..., Any]:
    """`network` as a function from and to NumPy; it follows the weights wherever they move."""
    return numpy_function(network, layers_of(network), network)


def numpy_function(
    network: nn.Module, layers: Sequence[Layer], forward: Callable[..., Any]
) -> Callable[..., Any]:
    """One function of all layers, or where the weights are not on the CPU, `forward` by torch.

    Each call compares the addresses of the first and the last tensor that the layers use with those it read:
    flattening, `.to()` and `load_state_dict(assign=True)` move them, and all are read anew. (A tensor between
    them that is swapped alone goes unnoticed.)
    """
    tensors: dict[str, tuple[Any, str, bool]] = {}  # name in the function: parameters, name there, transposed
    scope: dict[str, Any] = {**NAMES, "by_torch": by_torch(network, forward), "first": None, "last": None}
    lines = []
    for number, layer in enumerate(layers):
        source = layer.numpy
        for name, value in layer.names.items():
            if not isinstance(value, nn.Module):
                scope[f"{name}_{number}"] = value
                source = re.sub(rf"\b{name}\b", f"{name}_{number}", source)
                continue
            for attribute, transposed in re.findall(rf"\b{name}\.(\w+)(\.T\b)?", source):
                ours = f"{name}_{attribute}_{number}"
                holder = value._parameters if attribute in value._parameters else value._buffers
                tensors[ours] = holder, attribute, bool(transposed)
                source = re.sub(rf"\b{name}\.{attribute}\b(\.T\b)?", ours, source)
        lines += source.splitlines()

    def read() -> bool:
        found = {ours: holder[name] for ours, (holder, name, _) in tensors.items()}
        if any(tensor.device.type != "cpu" for tensor in found.values()):
            scope.update(first=None, last=None)
            return False
        for ours, tensor in found.items():
            array = tensor.detach().numpy()
            scope[ours] = array.T if tensors[ours][2] else array
        scope.update({end: found[ours].data_ptr() for end, ours in ends.items()})
        return True

    ends = dict(zip(("first", "last"), (list(tensors)[0], list(tensors)[-1]), strict=True)) if tensors else {}
    moved = []
    for end, ours in ends.items():
        scope[f"{end}_holder"], name, _ = tensors[ours]
        moved.append(f"{end}_holder[{name!r}].data_ptr() != {end}")
    if moved:
        lines = [
            f"if ({' or '.join(moved)}) and not read():",
            "    return by_torch(x) if extra is None else by_torch(x, extra)",
            *lines,
        ]
    body = "".join(f"    {line}\n" for line in lines)
    scope["read"] = read
    exec(f"def forward(x, extra=None):\n{body}    return x\n", scope)
    function: Callable[..., Any] = scope["forward"]
    return function


def by_torch(network: nn.Module, forward: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """`network`, or a function of the same inputs that uses its weights, from and to NumPy by torch."""
    function = forward or network

    @torch.inference_mode()
    def call(*inputs: Array) -> Any:
        device = next(network.parameters()).device
        outputs = function(*(torch.as_tensor(array, device=device) for array in inputs))
        if isinstance(outputs, Tensor):
            return outputs.cpu().numpy()
        return tuple(output.cpu().numpy() for output in outputs)

    return call


# what statements of layers may use; `dot` has less to decide than @
NAMES = {
    name: getattr(np, name)
    for name in ("add", "concatenate", "dot", "empty", "expm1", "maximum", "minimum", "sqrt", "tanh", "where")
} | {"float32": np.dtype(np.float32), "zero": np.zeros((), np.float32)}
