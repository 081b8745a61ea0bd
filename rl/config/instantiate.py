"""Making what `_target_` names: parts, wrappers, callbacks, launchers, trackers."""

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


def make_part(key: str, part: Any, interface: type) -> Any:
    """The object that the section `key` describes.

    ConfigError if it cannot be imported or made, or lacks a member of the interface.
    """
    try:
        maker = instantiate(part)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from error
    try:
        made = maker()
    except ConfigError:  # of the class itself, which knows better what to say
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from error
    members = [name for name in (*interface.__annotations__, *vars(interface)) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(made, name)]
    if missing:
        target = f"{key}._target_={entries(part)['_target_']}"
        raise ConfigError(f"{target}: not a {interface.__name__}; it lacks {', '.join(missing)}")
    return made


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
