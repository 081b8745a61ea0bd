"""What networks are given of observations that are no plain Box: one float32 vector, made by one place.

Integers are one-hot, Boxes and MultiBinary flat, in the order of the space's leaves, but images come first:
uint8 Boxes of at least 8 x 8, as [channels, height, width] divided by 255. So every network that takes a
vector takes these, and `MultiInput` finds the images in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.learning.networks.multi_input import VectorShape
from rl.learning.normalize import NullNormalizer, ObsNormalizer

Array = NDArray[Any]
SMALLEST_IMAGE = 8  # least height and width
LARGEST = 2**20  # numbers that a network can be given


class OneBox:
    """Of observations whose only leaf besides the action mask is a Box, that Box as if it were alone."""

    def __init__(self, name: str, inner: ObsNormalizer | NullNormalizer) -> None:
        self.name, self.inner, self.parts = name, inner, inner.parts

    def __call__(self, obs: Array) -> Array:
        """[..., *shape]."""
        return self.inner(obs[self.name].copy())  # a view of one row has odd strides, which torch refuses

    def in_torch(self, obs: Any) -> Tensor:
        """The same, from tensors by name."""
        return self.inner.in_torch(obs[self.name])

    def update(self, obs: Array) -> None:
        """Add observations to the statistics, if there are any."""
        self.inner.update(obs[self.name])


class Features:
    """Observations [...] as float32 vectors [..., F]; float Boxes normalised, each by its own statistics."""

    def __init__(self, leaves: Mapping[str, gym.Space], *, normalize: bool) -> None:
        """ValueError if a vector would have more than LARGEST numbers."""
        given = [_Leaf(name, leaf) for name, leaf in leaves.items()]
        self.leaves = sorted(given, key=lambda leaf: leaf.image is None)  # images first
        begins = np.cumsum([0, *(leaf.size for leaf in self.leaves)]).tolist()
        self.slices = [slice(*ends) for ends in zip(begins, begins[1:], strict=False)]
        if begins[-1] > LARGEST:
            sizes = ", ".join(f"{leaf.name or leaf.space}: {leaf.size:,}" for leaf in self.leaves)
            raise ValueError(
                f"a network would be given {begins[-1]:,} numbers ({sizes}), integers one-hot, and"
                f" {LARGEST:,} are allowed; change the observations by a wrapper in env.wrappers"
            )
        self.shape = VectorShape(begins[-1], [leaf.image for leaf in self.leaves if leaf.image is not None])
        self.normalizers = {
            leaf.name: ObsNormalizer(leaf.space.shape or ())
            for leaf in self.leaves
            if normalize and isinstance(leaf.space, gym.spaces.Box) and leaf.space.dtype.kind == "f"
        }

    def __call__(self, obs: Array) -> NDArray[np.float32]:
        """ValueError for an integer that is not in its space."""
        first = self.leaves[0]
        lead = first.of(obs).shape[: first.of(obs).ndim - len(first.shape)]
        vectors = np.zeros((math.prod(lead), *self.shape), np.float32)
        for leaf, part in zip(self.leaves, self.slices, strict=True):
            values = leaf.of(obs)
            if leaf.name in self.normalizers:
                values = self.normalizers[leaf.name](values)
            leaf.write(values.reshape(-1, *leaf.shape), vectors[:, part])
        return vectors.reshape(*lead, *self.shape)

    def in_torch(self, obs: Any) -> Tensor:
        """The same of a batch: a tensor [B, *shape], or tensors by the names of the fields; to [B, F]."""
        parts = []
        for leaf in self.leaves:
            values = obs[leaf.name] if leaf.name else obs
            if leaf.name in self.normalizers:
                values = self.normalizers[leaf.name].in_torch(values)
            parts.append(leaf.in_torch(values))
        return torch.cat(parts, 1)

    def update(self, obs: Array) -> None:
        """Add observations to the statistics."""
        for name, normalizer in self.normalizers.items():
            normalizer.update(obs[name])

    @property
    def parts(self) -> dict[str, Features]:
        """Itself, by its name in checkpoints, if it has statistics."""
        return {"obs_normalizer": self} if self.normalizers else {}

    def state_dict(self) -> dict[str, Any]:
        """The statistics by the names of the fields."""
        return {name: normalizer.state_dict() for name, normalizer in self.normalizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set them."""
        for name, normalizer in self.normalizers.items():
            normalizer.load_state_dict(state[name])


class _Leaf:
    """One leaf of an observation as part of a vector."""

    def __init__(self, name: str, space: Any) -> None:
        self.name, self.space, self.shape = name, space, tuple(space.shape or ())
        self.image: tuple[int, int, int] | None = None
        self.axes: tuple[int, ...] = ()  # of an image: how its axes are ordered to have the channels first
        self.counts: Array | None = None  # of integers: how many values each has, and the least
        self.size = math.prod(self.shape)
        if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            counts: Any = space.n if isinstance(space, gym.spaces.Discrete) else space.nvec
            self.counts = np.atleast_1d(counts).ravel().astype(np.int64)
            self.start = np.broadcast_to(space.start, self.shape).ravel().astype(np.int64)
            self.size = int(self.counts.sum())
            self.columns = np.cumsum(self.counts) - self.counts  # where each one's columns begin
        elif isinstance(space, gym.spaces.Box) and space.dtype == np.uint8:
            self._find_image()

    def _find_image(self) -> None:
        """[C, H, W] or [H, W, C], the shortest axis being the channels; stacks of these [S, ...] too."""
        *stack, a, b, c = self.shape if len(self.shape) in (3, 4) else (0, 0, 0)
        channels_first = a < c
        height, width, channels = (b, c, a) if channels_first else (a, b, c)
        if min(height, width) >= SMALLEST_IMAGE:
            self.image = (math.prod(stack) * channels, height, width)
            first = len(stack)
            order = (0, 1, 2) if channels_first else (2, 0, 1)
            self.axes = (*range(first), *(first + axis for axis in order))

    def of(self, obs: Array) -> Array:
        """The values of observations [..., *shape]."""
        return obs[self.name] if obs.dtype.names else obs

    def write(self, values: Array, out: NDArray[np.float32]) -> None:
        """Values [B, *shape] to columns [B, size], which are zeros."""
        if self.image is not None:
            pixels = values.transpose(0, *(axis + 1 for axis in self.axes))
            np.divide(pixels.reshape(len(values), -1), np.float32(255), out=out)
        elif self.counts is None:
            out[:] = values.reshape(len(values), -1)
        else:
            index = values.reshape(len(values), -1).astype(np.int64) - self.start
            if (index.view(np.uint64) >= self.counts.view(np.uint64)).any():  # a negative one is too large
                raise ValueError(f"an observation{self.name and f' of {self.name}'} is not in {self.space}")
            out[np.arange(len(values))[:, None], index + self.columns] = 1

    def in_torch(self, values: Tensor) -> Tensor:
        """[B, *shape] -> [B, size]."""
        if self.image is not None:
            return values.permute(0, *(axis + 1 for axis in self.axes)).flatten(1).float() / 255
        if self.counts is None:
            return values.flatten(1).float()
        which = torch.from_numpy(np.repeat(np.arange(len(self.counts)), self.counts))
        value = np.arange(self.size) - np.repeat(self.columns - self.start, self.counts)
        flat = values.reshape(values.shape[0], -1)
        return (flat[:, which] == torch.from_numpy(value)).float()
