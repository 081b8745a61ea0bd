"""A state to bytes and back, without pickle: everything loads with `weights_only=True`."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def load(data: bytes, device: str) -> dict[str, Any]:
    """The state in the bytes of a data file, without running pickle code."""
    import torch

    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def serialize(state: Any) -> bytes:
    """A state as bytes, equal for equal states; made in memory, so a full disk is a plain OSError later."""
    import torch

    buffer = io.BytesIO()
    torch.save(_clone(state), buffer)
    return buffer.getvalue()


def _clone(value: Any) -> Any:
    """A copy without views: saving a view would save the whole memory behind it.

    Equal strings are one object: one that comes again is written as a reference, and a loaded state has
    its own.
    """
    if isinstance(value, dict):
        return {_clone(key): _clone(part) for key, part in value.items()}
    if type(value) is str:
        return sys.intern(value)
    if isinstance(value, list | tuple):
        return type(value)(_clone(part) for part in value)
    return value.detach().clone() if hasattr(value, "detach") else value


def to_tensors(array: NDArray[Any]) -> Any:
    """A copy of an array as a tensor; of one with a structured dtype as a dict, a tensor for each field."""
    import torch

    if array.dtype.names is None:
        return torch.from_numpy(array.copy())
    return {name: torch.from_numpy(array[name].copy()) for name in array.dtype.names}


def from_tensors(state: Any, dtype: Any) -> NDArray[Any]:
    """The array that `to_tensors` saved. KeyError or ValueError if its fields are not those of `dtype`."""
    import numpy as np

    if dtype.names is None:
        array: NDArray[Any] = state.cpu().numpy()
        return array
    shape = state[dtype.names[0]].shape
    packed = np.empty(shape[: len(shape) - len(dtype[0].shape)], dtype)
    for name in dtype.names:
        packed[name] = state[name].cpu().numpy()
    return packed
