"""The collector of a run on several processes: each steps its share of the envs, and all get the rollout."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl.algos.agent import Agent
from rl.clock import Clock
from rl.group import Group, SharedDraws
from rl.learning.rollout import Rollout
from rl.state import GlobalRandom, Streams
from rl.training.collector import Collector

Array = NDArray[Any]


class SharedCollector:
    """A `Collector` of this process's envs, and what those of all processes give together.

    After each rollout the processes exchange what they have, and with it what `tell` says.
    """

    def __init__(
        self, own: Collector, group: Group, num_envs: int, streams: Streams, clock: Clock, *, masks: bool
    ) -> None:
        """`masks`: whether the envs mask actions; then how one explores depends on the masks of all."""
        self.own, self.group, self.clock, self.envs = own, group, clock, own.envs
        self.part = group.part(num_envs)
        draws: Any = SharedDraws(streams.action, self.part, num_envs, group if masks else None)
        own.streams, own.clock = types.SimpleNamespace(action=draws), Clock()  # type: ignore[assignment]
        own.first_env = self.part.start
        self.rollout: Rollout = dataclasses.replace(own.rollout, extras={}, final_obs=[], begun=[])
        for name, array in _arrays(own.rollout).items():
            wide = (len(array), num_envs, *array.shape[2:])
            setattr(self.rollout, name, np.zeros(wide, array.dtype))
        self.ended_returns: list[float] = []
        self.ended_lengths: list[int] = []
        self.not_exact: list[str] = []
        self.begun: list[int] = []
        # what each process says with its rollout, and what is done with what all have said
        self.tell: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.hear: Callable[[list[list[int]]], None] = lambda said: None

    def start(self) -> None:
        """Begin every env's first episode."""
        self.own.start()
        self._share_last_obs()

    def _share_last_obs(self) -> None:
        last = self.group.gather_arrays([self.own.rollout.obs[-1]])
        self.rollout.obs[-1] = np.concatenate([obs for (obs,) in last])

    def collect(self, agent: Agent) -> Rollout:
        """Step every env T times, and advance the clock."""
        own, rollout = self.own.collect(agent), self.rollout
        arrays = _arrays(own)
        rollout.obs[0] = rollout.obs[-1]
        rollout.begun, self.begun = self.begun, []
        given = [array[len(array) - len(own.reward) :] for array in arrays.values()]
        given += own.extras.values()
        state = [] if own.state is None else [own.state]
        head = np.array([len(own.final_obs), *self.tell()], np.int64)
        everyone = self.group.gather_arrays([head, *given, *state])

        for name, columns in zip(arrays, zip(*(parts[1:] for parts in everyone), strict=True), strict=False):
            whole = getattr(rollout, name)
            np.concatenate(columns, 1, out=whole[len(whole) - len(own.reward) :])
        first = 1 + len(arrays)
        rollout.extras = {
            name: np.concatenate([parts[first + n] for parts in everyone], 1)
            for n, name in enumerate(own.extras)
        }
        rollout.state = np.concatenate([parts[-1] for parts in everyone]) if state else None
        heads = [parts[0].tolist() for parts in everyone]
        self._share_ends(own, max(ended for ended, *_ in heads))
        self.hear([said for _, *said in heads])
        self.clock.tick(rollout.reward.size, len(self.ended_returns))
        return rollout

    def _share_ends(self, own: Rollout, most: int) -> None:
        """The episodes that ended in any process, in the order of one process: by step, then by env."""
        self.rollout.final_obs, self.ended_returns, self.ended_lengths = [], [], []
        if not most:
            return
        numbers, returns = np.full((most, 3), -1, np.int64), np.zeros(most)
        finals = np.zeros((most, *own.obs.shape[2:]), own.obs.dtype)
        for row, (t, n, obs) in enumerate(own.final_obs):
            numbers[row] = t, self.part.start + n, self.own.ended_lengths[row]
            returns[row], finals[row] = self.own.ended_returns[row], obs
        everyone = self.group.gather_arrays([numbers, returns, finals])
        numbers, returns, finals = (np.concatenate(arrays) for arrays in zip(*everyone, strict=True))
        for row in np.lexsort((numbers[:, 1], numbers[:, 0])):
            t, n, length = map(int, numbers[row])
            if t >= 0:
                self.rollout.final_obs.append((t, n, finals[row]))
                self.ended_returns.append(float(returns[row]))
                self.ended_lengths.append(length)

    def state_dict(self) -> dict[str, Any]:
        """The state of every env's episode, from all processes."""
        states = self.group.gather(self.own.state_dict())
        return {name: _joined([state[name] for state in states]) for name in states[0]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore this process's envs, as `Collector` does."""
        self.own.load_state_dict({k: v if v is None else v[self.part] for k, v in state.items()})
        own = self.own.not_exact, [self.part.start + n for n in self.own.begun]
        problems, begun = zip(*self.group.gather(own), strict=True)
        self.not_exact, self.begun = sum(problems, []), sum(begun, [])
        self._share_last_obs()


class SharedRandom(GlobalRandom):
    """The global generators of every process: envs may draw from them, each process from its own."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def state_dict(self) -> dict[str, Any]:
        """Those of the first process, and with them those of the others."""
        first, *others = self.group.gather(super().state_dict())
        return {**first, "others": others}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set this process's, or those of the first if there were fewer."""
        states = [state, *state.get("others", [])]
        super().load_state_dict(states[self.group.rank if self.group.rank < len(states) else 0])


def _arrays(rollout: Rollout) -> dict[str, Array]:
    """The arrays [T, N, ...] of a rollout by name, and its observations [T + 1, N, ...]."""

    def found() -> Iterator[tuple[str, Array]]:
        for field in dataclasses.fields(rollout):
            value = getattr(rollout, field.name)
            if isinstance(value, np.ndarray) and field.name != "state":
                yield field.name, value

    return dict(found())


def _joined(parts: list[Any]) -> Any:
    """Lists one after the other, or tensors along their first axis."""
    if parts[0] is None:
        return None
    return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else [one for part in parts for one in part]
