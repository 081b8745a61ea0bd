"""Settings of torch and the C library for training."""

from __future__ import annotations

import ctypes
import os

import torch

from rl.config import ConfigError, RunConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def set_up_torch(config: RunConfig) -> None:
    """Set threads and determinism, and check the device. ConfigError if it is not available."""
    torch.set_num_threads(config.threads)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no CUDA device here; type device=cpu")
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    # called only on a change: it imports the compiler, which takes more than a second
    if config.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config.deterministic)


def keep_freed_memory() -> None:
    """Make glibc, if it is the C library, keep up to half a GiB of freed memory for reuse.

    Otherwise it may return a minibatch's arrays to the kernel and get them back page by page, which takes a
    fifth of PPO's time on images.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # 32 MiB is the largest M_MMAP_THRESHOLD allowed
        for option, value in ((M_MMAP_THRESHOLD, 32 * 2**20), (M_TRIM_THRESHOLD, 512 * 2**20)):
            mallopt(option, value)
