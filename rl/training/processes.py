"""One of several processes that train a run together, on torch.distributed."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import os
import pickle
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from rl.config import ConfigError, RunConfig
from rl.config.invocation import command
from rl.group import Group
from rl.runs.outcome import FAILED, REFUSED, Stop
from rl.runs.plan import Plan
from rl.training.launch import LOST_THE_OTHERS, PLACE, Board
from rl.training.run import Run
from rl.training.shared_collector import SharedCollector
from rl.training.shared_sums import SharedSums, shared_sums

log = logging.getLogger("encore")
_SAY_S = 2.0  # for a process that has lost others to say so
_PATIENCE_S = 60.0  # beyond processes_limit_s, so that a parent, which knows who is silent, ends it first


class ProcessGroup(Group):
    """This process among those that train together."""

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        config: RunConfig,
        board: Board | None,
        folder: Path | None = None,
    ) -> None:
        """Meet the others, at `store`. ConfigError if there is no GPU for each process."""
        self.rank, self.size, self.board, self.store, self.folder = rank, size, board, store, folder
        self.talked_s = 0.0  # spent in exchanges, waiting for the others included
        self._sums: dict[int, SharedSums | None] = {}  # by the length of what is added up
        self.device = config.device
        if self.device == "cuda":
            local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
            if torch.cuda.device_count() < here:
                raise ConfigError(
                    f"processes={size}: device=cuda takes one GPU each, and there are"
                    f" {torch.cuda.device_count()} here for {here}"
                )
            torch.cuda.set_device(local)
        self.patience_s = config.processes_limit_s + (_PATIENCE_S if board else 0)
        options: dict[str, Any] = {"store": store, "rank": rank, "world_size": size}
        options["timeout"] = datetime.timedelta(seconds=self.patience_s)
        backend = "gloo" if self.device == "cpu" else "cpu:gloo,cuda:nccl"
        self._talk(lambda: dist.init_process_group(backend, **options))

    def _talk(self, action: Callable[[], Any]) -> Any:
        """Do what takes all processes. SystemExit if one has ended, or does not answer."""
        began = time.perf_counter()
        if self.board:
            self.board.waits(self.rank, True)
        try:
            return action()
        except RuntimeError as error:
            self._leave(error)
        finally:
            self.talked_s += time.perf_counter() - began
            if self.board:
                self.board.waits(self.rank, False)

    def _leave(self, error: RuntimeError) -> NoReturn:
        """Exit, for the others are lost. A parent knows more, and says it; else this process does."""
        if self.board:
            raise SystemExit(LOST_THE_OTHERS) from error
        if self.device == "cpu" and dist.is_initialized():
            dist.destroy_process_group()  # so that those who wait for this process notice
        who = " and ".join(map(str, self._silent())) or "another one"
        text = "stopped: process %s of %d has ended, or does not answer (%s); the last checkpoint stands%s"
        hint = f", go on with: {command('train', f'resume={self.folder}')}" if self.folder else ""
        # without the place in gloo's code, and its advice
        why = re.match(r"(?:\[\S+\] )?(.*?)(?:\. |\n|$)", str(error))
        log.error(text, who, self.size, why and why[1], hint)
        raise SystemExit(FAILED) from error

    def _silent(self) -> list[int]:
        """The processes that do not say within seconds that they have lost others too."""
        missing = [rank for rank in range(self.size) if rank != self.rank]
        until = time.monotonic() + (_SAY_S if self.rank else 2 * _SAY_S)  # the first may hold the store
        try:
            self.store.set(f"lost-{self.rank}", "")
            while missing and time.monotonic() < until:
                time.sleep(0.1)
                missing = [rank for rank in missing if not self.store.check([f"lost-{rank}"])]
        except RuntimeError:  # the store is gone, and with it who held it
            return [0]
        return missing

    def part(self, count: int) -> slice:
        """Which of `count` things in a row are this process's. ValueError if they cannot be shared evenly."""
        each, rest = divmod(count, self.size)
        if rest:
            raise ValueError(f"{self.size} processes do not share {count} evenly")
        return slice(self.rank * each, (self.rank + 1) * each)

    def share(self, values: Any, axis: int = 0) -> Any:
        """This process's part of a tensor, or of each tensor of a (named) tuple, along an axis."""
        if isinstance(values, tuple | list):
            parts = [self.share(value, axis) for value in values]
            return type(values)(*parts) if hasattr(values, "_fields") else type(values)(parts)
        return values[(*[slice(None)] * axis, self.part(values.shape[axis]))]

    def whole(self, values: Tensor) -> Tensor:
        """Values [B / size] among zeros [B], so large that their average is that of no process but this."""
        zeros = torch.zeros_like(values)
        rows = [zeros] * self.size
        rows[self.rank] = values * self.size
        return torch.cat(rows)

    def average(
        self, grads: Sequence[Tensor], report: dict[str, Tensor]
    ) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """Gradients and reported values, averaged over all processes in one exchange."""
        tensors = [*grads, *report.values()]
        total = self._sum([tensor.detach().reshape(-1).float() for tensor in tensors])
        total /= self.size
        parts = total.split([tensor.numel() for tensor in tensors])
        means = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
        count = len(grads)
        return means[:count], dict(zip(report, means[count:], strict=True))

    def _sum(self, vectors: Sequence[Tensor]) -> Tensor:
        """The sum [n] of what all processes give: each its vectors, one after the other."""
        count = sum(map(len, vectors))
        if count not in self._sums:
            self._sums[count] = shared_sums(self, count) if self.device == "cpu" else None
        shared = self._sums[count]
        if shared is not None:
            return self._talk(lambda: shared(vectors))  # type: ignore[no-any-return]
        flat = torch.cat(list(vectors))
        self._talk(lambda: dist.all_reduce(flat))
        return flat

    def meet(self) -> None:
        """Return once all processes have called this."""
        dist.all_reduce(torch.zeros(1))

    def gather_arrays(self, arrays: Sequence[NDArray[Any]]) -> list[list[NDArray[Any]]]:
        """The arrays of each process, in order; shapes and types are the same in all."""
        sizes = [array.nbytes for array in arrays]
        own = torch.empty(sum(sizes), dtype=torch.uint8)
        at, memory = 0, own.numpy()
        for array, size in zip(arrays, sizes, strict=True):
            np.frombuffer(memory[at : at + size], array.dtype).reshape(array.shape)[...] = array
            at += size
        rows = list(torch.empty((self.size, len(own)), dtype=torch.uint8))
        self._talk(lambda: dist.all_gather(rows, own))
        ends = np.cumsum([0, *sizes])
        return [
            [
                np.frombuffer(row.numpy()[a:b], array.dtype).reshape(array.shape)
                for a, b, array in zip(ends, ends[1:], arrays, strict=False)
            ]
            for row in rows
        ]

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in order: anything that can be pickled."""
        data = pickle.dumps(value)
        lengths = [int(length) for (length,) in self.gather_arrays([np.array(len(data))])]
        padded = np.frombuffer(data.ljust(max(lengths), b"\0"), np.uint8)
        rows = [row for (row,) in self.gather_arrays([padded])]
        return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]

    def from_first(self, value: Any) -> Any:
        """What the first process gives."""
        return self.gather(value if self.rank == 0 else None)[0]

    def check_same(self, parts: Callable[[], Mapping[str, Any]], frames: int, hint: str) -> None:
        """SystemExit, naming in the log the first part whose state is not that of the first process."""
        own = {name: _digest(state) for name, state in parts().items()}
        everyone = self.gather(own)
        for rank, theirs in enumerate(everyone):
            wrong = [name for name in own if theirs[name] != everyone[0][name]]
            if wrong:
                more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
                what = f"{wrong[0]}{more} of process {rank} is not that of process 0"
                log.error("stopped: at frame %d %s; the last checkpoint stands: %s", frames, what, hint)
                raise SystemExit(FAILED)

    def share_stop(self, stop: Stop, run: Run) -> SharedStop:
        """A request to stop as all processes know it. With it they agree on the time for a checkpoint."""
        assert isinstance(run.collector, SharedCollector)
        shared = SharedStop(stop, self)

        def hear(said: list[list[int]]) -> None:
            shared.hear([number for number, _ in said])
            run.time_to_save = bool(said[0][1])

        run.collector.tell = lambda: (shared.number, run.minutes_have_passed())
        run.collector.hear = hear
        return shared


def _digest(state: Any) -> bytes:
    """A hash of a state_dict: of every tensor's bytes, and of all else as text."""
    digest = hashlib.blake2b(digest_size=16)

    def take(value: Any) -> None:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous()
            digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            for name, part in value.items():
                digest.update(f"{name}:".encode())
                take(part)
        elif isinstance(value, list | tuple):
            for part in value:
                take(part)
        else:
            digest.update(f"{value!r};".encode())

    take(state)
    return digest.digest()


class SharedStop(Stop):
    """A request to stop as all processes know it: they learn of it together, when they exchange a rollout."""

    def __init__(self, own: Stop, group: ProcessGroup) -> None:
        super().__init__()
        self.own, self.group, self._before = own, group, own._before

    @property
    def number(self) -> int:
        """The signal that this process or its parent has got; 0: none."""
        if self.own.requested:
            return self.own.requested[0]
        return self.group.board.requested if self.group.board else 0

    @property
    def asked(self) -> bool:
        """Whether this process or its parent has got one."""
        return bool(self.number)

    def settle(self) -> None:
        """At the end: have all processes know what any has got."""
        numbers = self.group.gather(self.number)
        if not self.requested:
            self.hear(numbers)
        dist.destroy_process_group()

    def hear(self, numbers: Sequence[int]) -> None:
        """Take over what each process has got."""
        self.requested = [number for number in numbers if number]


def join(make_plan: Callable[[int], Plan], typed: str) -> tuple[Plan, str, ProcessGroup]:
    """Meet the others, with one plan for all: a parent's, or what the first process makes of its command line
    for a number of processes. The plan, the command that was typed, and the group.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    board = None
    if PLACE in os.environ:
        place = Path(os.environ[PLACE])
        plan, typed, sys.argv[0] = pickle.loads(Path(place, "plan").read_bytes())
        board = Board(place / "board", size)
        try:
            store: Any = dist.FileStore(str(place / "store"), size)
        except RuntimeError as error:  # torch's word for an error of the disk
            print(f"{place / 'store'}: {error}", file=sys.stderr)
            raise SystemExit(FAILED) from error
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    else:
        store, rank, size = next(dist.rendezvous("env://"))
        plan, typed = _exchange_plan(dist.PrefixStore("plan", store), rank, size, make_plan, typed)
    if rank:
        logging.basicConfig(level=logging.WARNING, format="[%(asctime)s][%(levelname)s] %(message)s")
        config = replace(plan.config, progress=False, logger={})
        plan = replace(plan, composed=replace(plan.composed, config=config), mirror=None)
    group = ProcessGroup(dist.PrefixStore("group", store), rank, size, plan.config, board, plan.folder)
    return plan, typed, group


def _exchange_plan(
    store: Any, rank: int, size: int, make_plan: Callable[[int], Plan], typed: str
) -> tuple[Plan, str]:
    """The first process's plan. SystemExit in all processes if there is none."""
    if rank:
        found = pickle.loads(store.get("plan"))
        store.set(f"has-{rank}", "")
        if found is None:
            raise SystemExit(REFUSED)
        return found  # type: ignore[no-any-return]
    try:
        plan = make_plan(size)
    except BaseException:
        store.set("plan", pickle.dumps(None))
        with contextlib.suppress(RuntimeError):  # the store may live in this process
            store.wait([f"has-{n}" for n in range(1, size)], datetime.timedelta(seconds=10))
        raise
    store.set("plan", pickle.dumps((replace(plan, lock=None), typed)))
    return plan, typed
