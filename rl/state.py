"""The state of a run's parts, and its random generators."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch


@runtime_checkable
class Stateful(Protocol):
    """A part of a run whose state changes in training and cannot be recomputed."""

    def state_dict(self) -> dict[str, Any]:
        """The whole state, in types that load with `weights_only=True`."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Restore `state`."""


def check_parts(parts: Mapping[str, object]) -> None:
    """TypeError naming the first part whose state cannot be saved."""
    for name, part in parts.items():
        if not isinstance(part, Stateful):
            lacks = f"{name} ({type(part).__name__}) has no state_dict and load_state_dict"
            raise TypeError(f"{lacks}, so a run with it could not be resumed")


def not_finite(value: Any, path: str = "") -> list[str]:
    """The paths of the tensors in a state that hold NaN or inf."""
    if isinstance(value, torch.Tensor):
        return [path] if value.is_floating_point() and not torch.isfinite(value).all() else []
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    return [name for key, part in parts for name in not_finite(part, f"{path}.{key}" if path else str(key))]


def derive_seed(seed: int, *path: str | int) -> int:
    """A 32-bit seed for one purpose, statistically independent of the seeds of all other paths."""
    key = [zlib.crc32(step.encode()) if isinstance(step, str) else step for step in path]
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])


class EpisodeSeeds:
    """The seed of each episode of one env. It has 32 bits: `numpy.random.RandomState` takes no more.

    By scheme 2 no two of 2^22 episodes of 1024 envs have the same seed: their numbers are shuffled by a
    permutation. By scheme 1 they are hashed, so that of a million episodes about a hundred pairs have.
    Evaluations have scheme 1, and runs that began with it.
    """

    NEWEST = 2

    def __init__(self, seed: int, env: int, scheme: int = 1) -> None:
        self.seed, self.env, self.scheme = seed, env, scheme
        sequence = np.random.SeedSequence(seed, spawn_key=[zlib.crc32(b"episodes"), env >> 10])
        self.keys: list[int] = sequence.generate_state(4).tolist()

    def __call__(self, episode: int) -> int:
        """The seed of an episode, which counts from 0."""
        if self.scheme == 1:
            return derive_seed(self.seed, self.env, episode)
        number = (episode << 10 | self.env & 1023) & 0xFFFFFFFF
        for key in self.keys:  # each step is a permutation of the 32-bit numbers: the factor is odd
            number = (number ^ key) * 0x9E3779B1 & 0xFFFFFFFF
            number ^= number >> 15
        return number


class Streams:
    """One generator per purpose, so that more draws for one do not change the others."""

    NAMES = ("action", "minibatch", "replay")

    def __init__(self, seed: int) -> None:
        self.action, self.minibatch, self.replay = (
            np.random.Generator(np.random.PCG64(derive_seed(seed, "stream", name))) for name in self.NAMES
        )

    def state_dict(self) -> dict[str, Any]:
        """Each generator's state."""
        return {name: getattr(self, name).bit_generator.state for name in self.NAMES}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set each generator's state."""
        for name in self.NAMES:
            getattr(self, name).bit_generator.state = state[name]


class GlobalRandom:
    """The global generators of Python, NumPy and torch. Encore draws from none, but users' code may."""

    def seed(self, seed: int) -> None:
        """Seed all of them."""
        random.seed(seed)
        np.random.seed(seed)
        # torch.manual_seed would queue a call for a CUDA that may never start
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)

    def state_dict(self) -> dict[str, Any]:
        """Their states; CUDA's only where CUDA is in use."""
        version, internal, gauss = random.getstate()
        _, keys, *rest = np.random.get_state(legacy=True)
        return {
            # a tensor: 625 separate numbers would take milliseconds
            "python": [version, torch.tensor(internal), gauss],
            "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set their states."""
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(torch.as_tensor(internal).tolist()), gauss))
        keys, *rest = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])

    @contextlib.contextmanager
    def apart(self, seed: int) -> Iterator[None]:
        """Seed them within this context and restore them afterwards: evaluation must not affect training."""
        before = self.state_dict()
        self.seed(seed)
        try:
            yield
        finally:
            self.load_state_dict(before)
