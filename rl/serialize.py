"""A state to bytes and back, without pickle: everything loads with `weights_only=True`."""

from __future__ import annotations

import io
from typing import Any


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
    """A copy without views: saving a view would save the whole memory behind it."""
    if isinstance(value, dict):
        return {key: _clone(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_clone(part) for part in value)
    return value.detach().clone() if hasattr(value, "detach") else value
