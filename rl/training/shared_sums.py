"""Sums over the processes of one machine, through memory that they share."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.children import is_alive

_IN_MEMORY = Path("/dev/shm")
_STORES_IN_ORDER = platform.machine() in ("x86_64", "AMD64")  # others see them in the order they were made
_SPIN_S, _NAP_S = 0.005, 0.0002
_HEAD = 64  # bytes a process before the places: a cache line each


class SharedSums:
    """Sums of `size` processes' tensors [count]: each writes its own, and adds up all.

    The processes of one machine need a quarter of the time that they would need to send each other their
    gradients. There are two sets of places in turn: who writes to one again has met the others since, and
    these have read it. All add in the same order, so all have the same bits.
    """

    def __init__(self, rank: int, places: Tensor, meet: Callable[[], Any]) -> None:
        """`places` [2, size, count]; `meet` returns once all processes have called it."""
        self.rank, self.places, self.meet, self.turn = rank, places, meet, 0

    def __call__(self, own: Sequence[Tensor]) -> Tensor:
        """The sum [count] of what all give: each its vectors, one after the other."""
        places = self.places[self.turn]
        torch.cat(list(own), out=places[self.rank])
        self.meet()
        self.turn ^= 1
        return places.sum(0)


class Meeting:
    """A place where the processes of one machine wait for each other, in memory that they share.

    Each counts its calls there, and looks until the others have as many: to be woken by another would take
    longer than all else in a sum.
    """

    def __init__(self, rank: int, calls: NDArray[np.int64], pids: Sequence[int], patience_s: float) -> None:
        """`calls` [size], zeros; `pids` of all."""
        self.rank, self.calls, self.pids, self.patience_s, self.count = rank, calls, pids, patience_s, 0

    def __call__(self) -> None:
        """Return once all have called. RuntimeError if one has ended, or does not come."""
        self.count += 1
        self.calls[self.rank] = self.count
        began = time.monotonic()
        while not (self.calls >= self.count).all():
            waited_s = time.monotonic() - began
            if waited_s < _SPIN_S:
                os.sched_yield()
            elif waited_s > self.patience_s:
                raise RuntimeError(f"waited {self.patience_s:g} s")
            elif all(map(is_alive, self.pids)):
                time.sleep(_NAP_S)
            else:
                raise RuntimeError("a process has ended")


def shared_sums(group: Any, count: int) -> SharedSums | None:
    """Sums of tensors [count] for a ProcessGroup; None where its processes are on several machines.

    All its processes call this.
    """
    numbers, head = 2 * group.size * count, _HEAD * group.size
    path = group.from_first(_reserve(head + 4 * numbers) if group.rank == 0 else None)
    memory, pids = None, group.gather(os.getpid())
    with contextlib.suppress(OSError, RuntimeError):  # another machine's file
        if path is not None and os.path.exists(path) and all(map(is_alive, pids)):
            memory = torch.from_file(path, shared=True, size=head + 4 * numbers, dtype=torch.uint8)
    everywhere = all(group.gather(memory is not None))
    if group.rank == 0 and path is not None:
        os.unlink(path)
    if memory is None or not everywhere:
        return None
    calls = memory[:head].view(torch.int64).view(group.size, -1)[:, 0].numpy()
    meet = Meeting(group.rank, calls, pids, group.patience_s) if _STORES_IN_ORDER else group.meet
    places = memory[head:].view(torch.float32).view(2, group.size, count)
    return SharedSums(group.rank, places, meet)


def _reserve(size: int) -> str | None:
    """A new file of so many bytes, in memory where it can be; None if no room is kept for it."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return None
    with contextlib.suppress(OSError):
        file, path = tempfile.mkstemp(prefix="encore-sums-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None)
        try:
            os.posix_fallocate(file, 0, size)  # or a write to it may be a bus error
            return path
        except OSError:
            os.unlink(path)
        finally:
            os.close(file)
    return None
