"""Observations of stacked frames as a replay memory keeps them: one frame of each.

A step brings one new frame, so all but an observation's newest frame are in the rows before. In observations
of a structured dtype some fields may be stacks and others not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Stacks:
    """Takes observations apart into single frames, and puts them together.

    A stack is [size, ...], newest frame last. Before an episode's first frame there are zeros, or that frame.
    `keys` are the fields that are stacks: all where None.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        obs_dtype: np.dtype[Any],
        size: int,
        *,
        zero_padded: bool,
        keys: Sequence[str] | None = None,
    ) -> None:
        self.size, self.zero_padded, self.obs_dtype = size, zero_padded, obs_dtype
        self.wanted = np.arange(size)[::-1]  # rows back
        self.keys: set[str] = set()
        self.frame_shape, self.frame_dtype = tuple(obs_shape), obs_dtype
        if size == 1:
            return
        if obs_dtype.names is None:
            self.frame_shape = tuple(obs_shape[1:])
        else:
            self.keys = set(obs_dtype.names if keys is None else keys)
            self.frame_dtype = np.dtype([self._frame_field(name) for name in obs_dtype.names])

    def _frame_field(self, name: str) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
        field = self.obs_dtype[name]
        return name, field.base, field.shape[1:] if name in self.keys else field.shape

    def newest(self, obs: Array, lead: int) -> Array:
        """The newest frames of observations with `lead` axes before their own."""
        if self.size == 1:
            return obs
        if self.obs_dtype.names is None:
            return obs[(slice(None),) * lead + (-1,)]
        frames = np.empty(obs.shape, self.frame_dtype)
        for name in self.obs_dtype.names:
            frames[name] = np.take(obs[name], -1, lead) if name in self.keys else obs[name]
        return frames[()]

    def join(self, frames: Array, back: Array) -> Array:
        """Observations [B] from frames [B, size], that stand so many rows back [B, size]: less than
        `wanted` where the episode had not begun.
        """
        missing = back < self.wanted
        if self.obs_dtype.names is None:
            if self.zero_padded:
                frames[missing] = 0
            return frames
        obs = np.empty(len(frames), self.obs_dtype)
        for name in self.obs_dtype.names:
            if name in self.keys:
                obs[name] = frames[name]
                if self.zero_padded:
                    obs[name][missing] = 0
            else:
                obs[name] = frames[name][:, -1]
        return obs

    def advance(self, obs: Array, newest: Array) -> Array:
        """The observations that follow `obs` [M], by their newest frames [M]."""
        if self.size == 1:
            return newest
        if self.obs_dtype.names is None:
            obs[:, :-1], obs[:, -1] = obs[:, 1:].copy(), newest
            return obs
        for name in self.obs_dtype.names:
            if name in self.keys:
                obs[name][:, :-1] = obs[name][:, 1:].copy()
                obs[name][:, -1] = newest[name]
            else:
                obs[name] = newest[name]
        return obs
