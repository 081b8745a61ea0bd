"""Bytes of a state and back, without pickle: everything loads with `weights_only=True`."""

from __future__ import annotations

import io
from typing import Any


def load(data: bytes, device: str) -> dict[str, Any]:
    """The state in a data file; no pickle code is run."""
    import torch

    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def serialize(state: Any) -> bytes:
    """Bytes of a state, the same for equal states; through memory, so that a full disk is a plain OSError
    later.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(_own(state), buffer)
    return buffer.getvalue()


def _own(value: Any) -> Any:
    """A copy in which no tensor is a view: a view would save the whole memory behind it."""
    if isinstance(value, dict):
        return {key: _own(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_own(part) for part in value)
    return value.detach().clone() if hasattr(value, "detach") else value
