"""Making the parts that `_target_` names."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from rl.config.keys import ConfigError


def instantiate(part: Any) -> functools.partial[Any]:
    """The class or function that `_target_` names, with the entry's arguments; nested entries likewise."""
    arguments = dict(entries(part))
    target = arguments.pop("_target_")
    nested = {name: instantiate(value) for name, value in arguments.items() if "_target_" in entries(value)}
    return functools.partial(locate(target), **{**arguments, **nested})


def entries(part: Any) -> dict[str, Any]:
    """The keys and values of a section, typed or not; {} for a plain value."""
    if isinstance(part, dict):
        return part
    return vars(part) if hasattr(part, "__dataclass_fields__") else {}


def locate(target: str) -> Any:
    """What a `_target_` names. ConfigError if it cannot be imported."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_={target}: {error}") from error
