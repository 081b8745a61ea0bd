"""Observation spaces, and how one array holds observations of any of them.

Observations of a Box, Discrete, MultiDiscrete or MultiBinary space are plain arrays. One of a Dict or Tuple
is a scalar of a structured dtype: a field for each leaf, named by the keys on the way to it, joined by dots
(`hand.position`, `cards.0`). Such arrays index, stack and reshape as plain ones do.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector.utils import (
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from numpy.typing import NDArray

MASK = "action_mask"  # this key of a Dict says which actions can be taken: networks are not given it
_ALLOWED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of them"


def leaf_paths(space: gym.Space) -> Iterator[tuple[tuple[Any, ...], gym.Space]]:
    """The spaces that are no Dict or Tuple, each with the keys that lead to it; () for `space` itself."""
    if not isinstance(space, Dict | Tuple):
        yield (), space
        return
    for key, part in space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces):
        for path, leaf in leaf_paths(part):
            yield (key, *path), leaf


def leaves(space: gym.Space) -> dict[str, gym.Space]:
    """The same by the names of their fields; one that is no Dict or Tuple has the name ''."""
    return {".".join(map(str, path)): leaf for path, leaf in leaf_paths(space)}


def observed(space: gym.Space) -> dict[str, gym.Space]:
    """The leaves that networks are given: all but the action mask."""
    return {name: leaf for name, leaf in leaves(space).items() if name != MASK}


def check_obs_space(space: gym.Space) -> None:
    """ValueError, with what to do, for observations that no array of one dtype can hold."""
    advice = "; add a wrapper that changes it, such as env.wrappers=[{_target_: my_package.MyWrapper}]"
    paths = [(".".join(map(str, path)), leaf) for path, leaf in leaf_paths(space)]
    for name, leaf in paths:
        where = f"the observation space's key {name}" if name else "the observation space"
        if not isinstance(leaf, Box | Discrete | MultiDiscrete | MultiBinary):
            raise ValueError(f"{where} is {leaf}, and observations can be {_ALLOWED}{advice}")
        if leaf.dtype is None or leaf.dtype.kind not in "biuf":
            raise ValueError(f"{where} has the dtype {leaf.dtype}, which is no number{advice}")
    names = [name for name, _ in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the observation space has two keys named {twice[0]}: rename one by a wrapper")
    if not set(names) - {MASK}:
        raise ValueError(f"the observation space {space} has nothing to observe{advice}")


def obs_dtype(space: gym.Space) -> np.dtype[Any]:
    """The dtype in which observations are stored: of a Box uint8 stays uint8 and all else is float32, integer
    spaces keep theirs. Of a Dict or Tuple a structured one without padding: its bytes are its values.
    """
    if isinstance(space, Packed):
        return space.stored
    if not isinstance(space, Dict | Tuple):
        return _leaf_dtype(space)
    return np.dtype([(name, _leaf_dtype(leaf), leaf.shape or ()) for name, leaf in leaves(space).items()])


def _leaf_dtype(space: gym.Space) -> np.dtype[Any]:
    if isinstance(space, Box):
        return np.dtype(np.uint8) if space.dtype == np.uint8 else np.dtype(np.float32)
    assert space.dtype is not None
    return np.dtype(space.dtype)


def packer(space: gym.Space) -> Callable[..., Any] | None:
    """The function that makes an environment's observation of a Dict or Tuple a structured scalar, or with a
    `shape` a batch of them an array; None where observations are plain arrays.
    """
    if not isinstance(space, Dict | Tuple):
        return None
    dtype = obs_dtype(space)
    fields = [(name, path) for name, (path, _) in zip(leaves(space), leaf_paths(space), strict=True)]

    def pack(obs: Any, shape: tuple[int, ...] = ()) -> Any:
        packed = np.empty(shape, dtype)
        for name, path in fields:
            value = obs
            for key in path:
                value = value[key]
            packed[name] = value
        return packed[()]

    return pack


def as_rows(space: gym.Space, obs: Any) -> tuple[NDArray[Any], bool]:
    """One observation of a space or a batch of them as an array [B], or [B, *shape] where observations are
    plain arrays; and whether it was one, so that B is 1. ValueError for another shape.

    Of a Dict or Tuple what the environment gives, or packed arrays.
    """
    dtype = obs_dtype(space)
    if getattr(obs, "dtype", None) == dtype and dtype.names:
        return np.atleast_1d(obs), not obs.shape
    sizes = set()
    for (path, leaf), name in zip(leaf_paths(space), leaves(space), strict=True):
        value = obs
        for key in path:
            value = value[key]
        given, shape = np.shape(value), leaf.shape or ()
        if given not in (shape, (given[0] if given else 0, *shape)):
            batch_shape = ", ".join(map(str, ("B", *shape)))
            raise ValueError(
                f"observations{name and f' of {name}'} of shape {given}; expected one {shape}, or a batch"
                f" ({batch_shape})"
            )
        sizes.add(given[: len(given) - len(shape)])
    if len(sizes) > 1:
        raise ValueError(f"observations whose leaves have the batch sizes {sorted(sizes)}; expected one")
    (lead,) = sizes
    pack = packer(space)
    rows = np.asarray(obs).astype(dtype, copy=False) if pack is None else pack(obs, lead)
    return (rows, False) if lead else (np.asarray(rows)[None], True)


def describe_obs(space: gym.Space) -> str:
    """The fields of observations with their dtypes and shapes, for people; '' for a plain Box."""
    if isinstance(space, Box):
        return ""
    space = space.space if isinstance(space, Packed) else space
    parts = []
    for name, leaf in leaves(space).items():
        kind = "Box" if isinstance(leaf, Box) else str(leaf) if not leaf.shape else type(leaf).__name__
        shape = f" {list(leaf.shape)}" if leaf.shape else ""
        parts.append(f"{name} {kind}{shape} {_leaf_dtype(leaf)}".strip())
    return ", ".join(parts)


def all_finite(obs: NDArray[Any]) -> bool:
    """Whether no number in observations is NaN or inf."""
    return all(bool(np.isfinite(obs[name] if name else obs).all()) for name in obs.dtype.names or [""])


class Packed(gym.Space[Any]):
    """The space of packed observations; gymnasium's vector envs handle it as one of their own."""

    def __init__(self, space: gym.Space, shape: tuple[int, ...] = ()) -> None:
        """`space` is the Dict or Tuple of one observation."""
        super().__init__(shape)
        self.space, self.stored = space, obs_dtype(space)

    def sample(self, *given: Any, **options: Any) -> Any:
        """A packed sample of the space."""
        pack = packer(self.space)
        assert pack is not None
        return pack(self.space.sample(*given, **options))

    def contains(self, x: Any) -> bool:
        """Whether it has the dtype and shape."""
        return getattr(x, "dtype", None) == self.stored and x.shape == self.shape

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packed) and (self.space, self.shape) == (other.space, other.shape)

    def __repr__(self) -> str:
        return f"Packed({self.space}, {self.shape})"


# what a vector env asks of the space of its envs' observations


@batch_space.register(Packed)
def _batch_space(space: Packed, n: int = 1) -> Packed:
    return Packed(space.space, (n,))


@create_empty_array.register(Packed)
def _create_empty_array(space: Packed, n: int = 1, fn: Callable[..., Any] = np.zeros) -> NDArray[Any]:
    array: NDArray[Any] = fn(n, dtype=space.stored)
    return array


@concatenate.register(Packed)
def _concatenate(space: Packed, items: Any, out: NDArray[Any]) -> NDArray[Any]:
    for n, item in enumerate(items):
        out[n] = item
    return out


@create_shared_memory.register(Packed)
def _create_shared_memory(space: Packed, n: int = 1, ctx: Any = multiprocessing) -> Any:
    return ctx.Array("B", n * space.stored.itemsize)


@read_from_shared_memory.register(Packed)
def _read_from_shared_memory(space: Packed, shared_memory: Any, n: int = 1) -> NDArray[Any]:
    return np.frombuffer(shared_memory.get_obj(), space.stored)


@write_to_shared_memory.register(Packed)
def _write_to_shared_memory(space: Packed, index: int, value: Any, shared_memory: Any) -> None:
    np.frombuffer(shared_memory.get_obj(), space.stored)[index] = value
