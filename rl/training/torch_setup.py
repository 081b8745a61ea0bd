"""Setting torch and the C library up for training."""

from __future__ import annotations

import ctypes
import os

import torch

from rl.config import ConfigError, RunConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def set_up_torch(config: RunConfig) -> None:
    """Threads, device and determinism. ConfigError if there is no such device."""
    torch.set_num_threads(config.threads)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no CUDA device here; type device=cpu")
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    # the call imports the compiler, for more than a second
    if config.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config.deterministic)


def keep_freed_memory() -> None:
    """Have glibc, if it is the C library, keep freed memory for what comes next, up to half a GiB.

    It may else hand a minibatch's arrays back to the kernel, and get them again page by page: a fifth of
    PPO's time on images.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # the first can be no larger
        for option, value in ((M_MMAP_THRESHOLD, 32 * 2**20), (M_TRIM_THRESHOLD, 512 * 2**20)):
            mallopt(option, value)
