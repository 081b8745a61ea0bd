"""What a configuration key is: its help, its resume policy and its bounds."""

from __future__ import annotations

import functools
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NewType

# What a resumed run may do to a key (design: "The config of a resumed run").
FREE = "free"  # cannot change what is learned
NUMERICS = "numerics"  # changes how results are rounded
HORIZON = "horizon"  # how long to train: not below the clock
SCHEDULE = "schedule"  # a function of the clock: its past must stay
ONE_WAY = "one way"  # from an earlier of its choices to a later, not back
FROZEN = "frozen"  # defines the run
Count = NewType("Count", int)  # written 20M, 500k, ...


class Target(dict[str, Any]):
    """A part chosen in YAML: `_target_` names its class, the other keys are the class's keyword arguments.

    An algorithm is given a function in its place, which makes the part.
    """

    if typing.TYPE_CHECKING:

        def __call__(self, *inputs: Any, **options: Any) -> Any:
            """Make the part."""


@dataclass(frozen=True)
class Key:
    """What a key means, what a resume may do to it, and which values are possible."""

    help: str
    policy: str = FROZEN
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] | None = None
    above: float | None = None


class ConfigError(ValueError):
    """A value or a name that cannot be; says what was given and what is allowed."""


def install_line(extra: str) -> str:
    """What to type for an extra of setup.cfg, in a checkout or where the wheel is installed."""
    if not Path(__file__).parents[2].joinpath("setup.cfg").is_file():
        return f'pip install "encore-rl[{extra}]"'
    return f'pip install -c constraints.txt -e ".[{extra}]"'


@functools.cache
def fields(schema: type) -> dict[str, tuple[Any, Key | None]]:
    """Name -> (type, its Key, or None for a nested section) of a schema's keys."""
    result: dict[str, tuple[Any, Key | None]] = {}
    for name, hint in typing.get_type_hints(schema, include_extras=True).items():
        if typing.get_origin(hint) is Annotated:
            result[name] = (hint.__origin__, hint.__metadata__[0])
        else:
            result[name] = (hint, None)
    return result


def options_of(kind: Any) -> tuple[Any, ...]:
    """The alternatives of `X | None`; a plain type is its only one."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)
