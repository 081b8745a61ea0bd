"""The replay memory: the transitions of all envs, sampled uniformly, on disk in chunks.

A row is one step of all N envs; rows are numbered from the start of training, and the transition of row r in
env n has the number k = r * N + n. The last R rows stand in a ring. An observation is stored once: what
follows a transition is the observation of the next row, but where its episode ended, whose last observations
stand apart. Of stacked frames only the newest is stored. An episode that a resume could not restore ends with
the last transition before, as if it were truncated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rl.learning.ends import Ends
from rl.learning.rollout import Rollout
from rl.learning.stacks import Stacks
from rl.serialize import from_tensors, to_tensors

Array = NDArray[Any]


class Batch(NamedTuple):
    """B transitions, each over n steps or as many as its episode had left: arrays, or tensors for a loss."""

    number: Any  # [B], which transitions: for `update_priorities`
    obs: Any  # [B, *obs_shape]
    action: Any  # [B, *action_shape]
    reward: Any  # [B], the discounted sum over the steps
    discount: Any  # [B], of the value of next_obs: gamma^steps, 0 where the episode terminated
    next_obs: Any  # [B, *obs_shape], the true successor
    weight: Any  # [B], of the transition in the loss

    def to(self, device: str) -> Batch:
        """The same as tensors."""
        tensors = map(torch.from_numpy, self)
        return Batch(*tensors) if device == "cpu" else Batch(*(tensor.to(device) for tensor in tensors))


@dataclass(frozen=True)
class Transitions:
    """What a memory is told of the transitions that it will hold."""

    obs_shape: Sequence[int]
    obs_dtype: Any
    frame_stack: int  # above 1: as many frames along the first axis, newest last
    action_shape: Sequence[int]
    action_dtype: Any
    num_envs: int
    gamma: float
    n_step: int
    learning_starts: int  # how many must have come in before anything is learned
    zero_padded: bool = False  # what stands in a stack before an episode's first frame: zeros, or that frame
    stacked_keys: Sequence[str] | None = None  # of a structured dtype: the fields that are stacks, or all
    goal_functions: Callable[[], dict[str, Any]] | None = None  # gives those of an env with goals, by name


class UniformReplay:
    """The last `capacity` transitions, all equally likely (Lin 1992; Mnih et al. 2015).

    A transition can be drawn once the n steps after it are known.
    """

    def __init__(self, told: Transitions, *, capacity: int, on_resume: str) -> None:
        """ValueError if the sizes do not fit each other."""
        stacked = told.frame_stack > 1
        least = (told.n_step + told.frame_stack - 1) * told.num_envs
        if not least <= told.learning_starts <= capacity:
            raise ValueError(
                f"algo.learning_starts={told.learning_starts} must be from {least}, the first transition"
                f" that is whole, to algo.replay.capacity={capacity}"
            )
        self.refill = on_resume == "refill"
        self.num_envs, self.n_step, self.frame_stack = told.num_envs, told.n_step, told.frame_stack
        self.learning_starts = told.learning_starts
        self.capacity = -(-capacity // told.num_envs)  # from here on in rows
        # R: all that drawing from `capacity` rows reads
        self.rows = self.capacity + told.n_step + told.frame_stack - 1
        obs, padded = (told.obs_shape, np.dtype(told.obs_dtype)), told.zero_padded
        self.stacks = Stacks(*obs, told.frame_stack, zero_padded=padded, keys=told.stacked_keys)
        self.layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "frames": (self.stacks.frame_shape, self.stacks.frame_dtype),
            "action": (tuple(told.action_shape), np.dtype(told.action_dtype)),
            "reward": ((), np.dtype(np.float32)),
            "terminated": ((), np.dtype(np.bool_)),
            "done": ((), np.dtype(np.bool_)),
            # steps since the episode began, at most frame_stack - 1
            **({"age": ((), np.dtype(np.uint8))} if stacked else {}),
        }
        self.begin = self.end = 0  # the first row that came in, and the one that comes next
        self.written = 0  # the first row that is in no chunk
        self.ends = Ends(*self.layout["frames"])
        # the transitions that are last because a resume could not restore their episode, and the newest frame
        # that followed: in no chunk, since those were written before
        self.cuts: dict[int, Array] = {}
        # [n + 1], gamma^k
        self._discounts = np.float32(told.gamma) ** np.arange(told.n_step + 1, dtype=np.float32)
        self._rings: dict[str, Array] = {}  # [R, N, ...]
        self._flat: dict[str, Array] = {}  # the same, [R * N, ...]

    # ---------------------------------------------------------------------------------------------- in memory

    @property
    def bytes(self) -> int:
        """What the memory takes when it is full, but for the ends of episodes."""
        row = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.layout.values())
        return self.rows * self.num_envs * row

    def allocate(self, limit: int) -> None:
        """Take the memory. ValueError if that is more than `limit` bytes."""
        if self.bytes > limit:
            capacity = self.capacity * self.num_envs
            raise ValueError(
                f"algo.replay.capacity={capacity} takes {self.bytes / 2**30:.1f} GiB, and this machine has"
                f" {limit / 2**30:.1f} GiB; algo.replay.capacity={int(capacity * 0.8 * limit / self.bytes)}"
                " would fit"
            )
        for name, (shape, dtype) in self.layout.items():
            self._rings[name] = np.zeros((self.rows, self.num_envs, *shape), dtype)
            self._flat[name] = self._rings[name].reshape(-1, *shape)

    @property
    def _high(self) -> int:
        """After the last row that can be drawn."""
        return max(self.end - self.n_step + 1, self._low)

    @property
    def _low(self) -> int:
        """The first row that can be drawn: older frames of its stack are there too."""
        first = self.begin + self.frame_stack - 1 if self.begin else 0
        return max(first, self.end - self.n_step + 1 - self.capacity)

    @property
    def oldest(self) -> int:
        """The first row that is needed."""
        return max(self.begin, self.end - self.rows + 1)

    def add(self, rollout: Rollout) -> None:
        """Take in a rollout, and forget what is beyond the capacity."""
        steps, number = len(rollout.reward), self.end * self.num_envs
        first = self.end % self.rows
        row: Any = slice(first, first + steps)
        and_next: Any = slice(first, first + steps + 1)
        if and_next.stop > self.rows:  # the ring begins again
            and_next = np.arange(self.end, self.end + steps + 1) % self.rows
            row = and_next[:-1]
        self._cut(rollout.begun)
        done = rollout.terminated | rollout.truncated
        rings = self._rings
        # the last belongs to the row that comes next
        rings["frames"][and_next] = self.stacks.newest(rollout.obs, 2)
        rings["action"][row] = rollout.action
        rings["reward"][row] = rollout.reward
        rings["terminated"][row] = rollout.terminated
        rings["done"][row] = done
        if self.frame_stack > 1:
            self._add_ages(rollout)
        for t, n, obs in rollout.final_obs:
            self.ends.append(number + t * self.num_envs + n, self.stacks.newest(obs, 0))
        self.end += steps
        self.ends.forget_before(self.oldest * self.num_envs)
        self.cuts = {k: obs for k, obs in self.cuts.items() if k >= self.oldest * self.num_envs}

    def _cut(self, envs: Sequence[int]) -> None:
        """The episodes of these envs ended with the last transition; what had followed is known."""
        if not envs or self.begin == self.end:
            return
        first = (self.end - 1) * self.num_envs
        numbers, finals = self.ends.between(first, first + self.num_envs)
        ended = dict(zip(numbers.tolist(), finals.copy(), strict=True))
        for number in sorted({first + n for n in envs} - ended.keys()):
            n = number - first
            self.cuts[number] = ended[number] = self._following["frames"][n].copy()
            self._flat["done"][number % (self.rows * self.num_envs)] = True
            if self.frame_stack > 1:
                self._following["age"][n] = 0
        self.ends.replace_from(first, ended)

    def _add_ages(self, rollout: Rollout) -> None:
        age = self._rings["age"]
        for row, ended in enumerate(rollout.reset, self.end):
            older = np.minimum(age[row % self.rows] + 1, self.frame_stack - 1)
            age[(row + 1) % self.rows] = np.where(ended, 0, older)

    def updates_due(self, frames: int, added: int, per_frame: Fraction) -> range:
        """The numbers of the updates that the last `added` transitions earned, at a clock of `frames`.

        Every 1 / `per_frame` frames one is due; none for frames from before the memory held
        `learning_starts`.
        """
        since_start = (self.end - self.begin) * self.num_envs - self.learning_starts
        first = frames - max(0, min(added, since_start))
        updates, each = per_frame.numerator, per_frame.denominator  # arithmetic of Fractions is slow
        return range(updates * first // each + 1, updates * frames // each + 1)

    def sample(self, size: int, rng: np.random.Generator, frames: int) -> Batch:
        """`size` transitions, with replacement, at a clock of `frames`."""
        n = self.num_envs
        return self._gather(rng.integers(self._low * n, self._high * n, size), np.ones(size, np.float32))

    def update_priorities(self, number: NDArray[np.int64], td_error: torch.Tensor) -> None:
        """All stay equally likely."""

    def _gather(self, number: NDArray[np.int64], weight: NDArray[np.float32]) -> Batch:
        flat, slots = self._flat, self.rows * self.num_envs
        slot, last = number % slots, number
        if self.n_step == 1:
            reward, last_slot, discount = flat["reward"].take(slot), slot, self._discounts[1]
        else:
            steps = (number + self.num_envs * np.arange(self.n_step)[:, None]) % slots  # [n, B]
            alive = np.ones(steps.shape, np.bool_)
            np.logical_and.accumulate(~flat["done"].take(steps[:-1]), out=alive[1:])
            reward = (flat["reward"].take(steps) * (self._discounts[:-1, None] * alive)).sum(0)
            length = alive.sum(0)
            last = number + (length - 1) * self.num_envs
            last_slot, discount = last % slots, self._discounts[length]
        return Batch(
            number,
            self._obs(slot),
            flat["action"].take(slot, 0),
            reward,
            ~flat["terminated"].take(last_slot) * discount,
            self._successors(last, last_slot),
            weight,
        )

    def _obs(self, slot: NDArray[np.int64]) -> Array:
        """[B, *obs_shape]."""
        if self.frame_stack == 1:
            return self._flat["frames"].take(slot, 0)
        back = np.minimum(self._flat["age"].take(slot)[:, None], self.stacks.wanted)  # [B, stack]
        frames = self._flat["frames"].take(slot[:, None] - self.num_envs * back, 0, mode="wrap")
        return self.stacks.join(frames, back)

    def _successors(self, number: NDArray[np.int64], slot: NDArray[np.int64]) -> Array:
        """What came after transitions: [B, *obs_shape]."""
        result = self._obs((slot + self.num_envs) % (self.rows * self.num_envs))
        (ended,) = self._flat["done"].take(slot).nonzero()
        if len(ended):
            found, finals = self.ends.find(number[ended])
            ended = ended[found]  # the others lost a life: what followed is in the next row
            result[ended] = self.stacks.advance(self._obs(slot[ended]), finals)
        return result

    # ------------------------------------------------------------------------------------------------ on disk

    def take_chunk(self) -> Chunk | None:
        """The rows that are in no chunk yet, to be written now; None if nothing is to be written."""
        first, self.written = max(self.written, self.oldest), self.end
        if self.refill or first == self.end:
            return None
        return Chunk(first, self.end, self._buffers(first, self.end))

    def _buffers(self, first: int, end: int) -> list[Array]:
        numbers, obs = self.ends.between(first * self.num_envs, end * self.num_envs)
        arrays = [part for name in self.layout for part in self._parts(name, first, end)]
        about = {"first": first, "end": end, "ends": len(numbers), "layout": self._layout_as_json()}
        head = np.frombuffer(json.dumps(about).encode() + b"\n", np.uint8)
        return [head, *(array.reshape(-1).view(np.uint8) for array in (*arrays, numbers, obs))]

    def _layout_as_json(self) -> list[Any]:
        fields = [[name, list(shape), _described(dtype)] for name, (shape, dtype) in self.layout.items()]
        return [self.num_envs, fields]

    def _parts(self, name: str, first: int, end: int) -> list[Array]:
        """The memory of rows `first` ... `end` - 1: one piece, or two where the ring begins again."""
        ring, start, stop = self._rings[name], first % self.rows, (end - 1) % self.rows + 1
        return [ring[start:stop]] if start < stop else [ring[start:], ring[:stop]]

    def load_chunk(self, path: Path) -> None:
        """Read the rows of a chunk that are needed; chunks in their order, after `load_state_dict`.

        ValueError for the chunk of another memory.
        """
        with path.open("rb") as file:
            head = json.loads(file.readline())
            if head["layout"] != self._layout_as_json():
                raise ValueError(f"{path}: it holds transitions of another kind")
            first, end = max(head["first"], self.oldest), head["end"]
            for name, (shape, dtype) in self.layout.items():
                row_bytes = self.num_envs * math.prod(shape) * dtype.itemsize
                file.seek((first - head["first"]) * row_bytes, 1)
                for part in self._parts(name, first, end) if first < end else []:
                    _read_into(file, part)
            numbers = _read_array(file, (head["ends"],), np.int64).tolist()
            ends = {number: _read_array(file, *self.layout["frames"]) for number in numbers}
            for number, obs in self.cuts.items():
                if first * self.num_envs <= number < end * self.num_envs:
                    ends[number] = obs
                    self._flat["done"][number % (self.rows * self.num_envs)] = True
            for number in sorted(ends):
                if number >= self.oldest * self.num_envs:
                    self.ends.append(number, ends[number])

    def state_dict(self) -> dict[str, Any]:
        """What is in no chunk: how far the rows go, the beginning of the next, and cuts if there are any."""
        rows = {} if self.refill else self._following
        copies = {name: to_tensors(row) for name, row in rows.items()}
        state = {"begin": self.begin, "end": self.end, **copies}
        if self.cuts:
            shape, dtype = self.layout["frames"]
            frames = np.empty((len(self.cuts), *shape), dtype)
            for row, frame in enumerate(self.cuts.values()):
                frames[row] = frame
            state |= {"cuts": list(self.cuts), "cut_frames": to_tensors(frames)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be where `state` was, once its chunks are loaded too; or empty, with `refill`."""
        self.begin, self.end = state["end"] if self.refill else state["begin"], state["end"]
        self.written = self.end
        self.ends, self.cuts = Ends(*self.layout["frames"]), {}
        if not self.refill:
            if "cuts" in state:
                frames = from_tensors(state["cut_frames"], self.stacks.frame_dtype)
                self.cuts = dict(zip(state["cuts"], frames, strict=True))
            for name, row in self._following.items():
                row[:] = from_tensors(state[name], row.dtype)

    @property
    def _following(self) -> dict[str, Array]:
        """What is there already of the row that comes next."""
        return {n: ring[self.end % self.rows] for n, ring in self._rings.items() if n in ("frames", "age")}

    @property
    def not_exact(self) -> list[str]:
        """What a load does not bring back, for people."""
        if not (self.refill and self.end):
            return []
        frames = -(-self.learning_starts // self.num_envs) * self.num_envs
        untrained = f"about {frames} frames pass without training (algo.replay.on_resume=refill)"
        return [f"the replay memory fills again; {untrained}"]


@dataclass(frozen=True)
class Chunk:
    """Rows `first` ... `end` - 1 of a memory, for a file."""

    first: int
    end: int
    buffers: list[NDArray[np.uint8]]  # views of the memory: to be written before it changes


def _described(dtype: np.dtype[Any]) -> str:
    """A dtype in words, the fields of a structured one too."""
    return dtype.str if dtype.names is None else str(dtype.descr)


def _read_into(file: BinaryIO, array: Array) -> None:
    view = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    if file.readinto(view) != len(view):  # type: ignore[attr-defined]
        raise ValueError(f"{file.name}: it ends too early")


def _read_array(file: BinaryIO, shape: Sequence[int], dtype: Any) -> Array:
    array = np.empty(shape, dtype)
    _read_into(file, array)
    return array
