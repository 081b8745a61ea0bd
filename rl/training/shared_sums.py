"""Sums over the processes of one machine, through memory that they share."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_IN_MEMORY = Path("/dev/shm")


class SharedSums:
    """Sums of `size` processes' tensors [count]: each writes its own, and adds up all.

    The processes of one machine need a quarter of the time that they would need to send each other their
    gradients. There are two sets of places in turn: who writes to one again has met the others since, and
    these have read it. All add in the same order, so all have the same bits.
    """

    def __init__(self, rank: int, places: Tensor, meet: Callable[[], Any]) -> None:
        """`places` [2, size, count]; `meet` returns once all processes have called it."""
        self.rank, self.places, self.meet, self.turn = rank, places, meet, 0

    def __call__(self, own: Tensor) -> None:
        """Replace the process's own tensor [count] by the sum."""
        places = self.places[self.turn]
        places[self.rank].copy_(own)
        self.meet()
        torch.sum(places, 0, out=own)
        self.turn ^= 1


def shared_places(group: Any, count: int) -> Tensor | None:
    """Zeros [2, size, count] that all processes share, or None where they are on several machines.

    `group` is a ProcessGroup; all its processes call this.
    """
    numbers = 2 * group.size * count
    path = group.from_first(_reserve(4 * numbers) if group.rank == 0 else None)
    places = None
    with contextlib.suppress(OSError, RuntimeError):  # another machine's file
        if path is not None and os.path.exists(path):
            places = torch.from_file(path, shared=True, size=numbers, dtype=torch.float32)
    everywhere = all(group.gather(places is not None))
    if group.rank == 0 and path is not None:
        os.unlink(path)
    return places.view(2, group.size, count) if everywhere and places is not None else None


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
