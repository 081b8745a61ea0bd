"""Settings of torch and the C library for training."""

from __future__ import annotations

import ctypes
import os

import torch

from rl.config import ConfigError, RunConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def set_up_torch(config: RunConfig) -> None:
    """Set threads, determinism and precision, and check the device. ConfigError if it is not available."""
    torch.set_num_threads(config.threads)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no CUDA device here; type device=cpu")
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision(config.matmul_precision)  # a CPU that cannot lower it does not
    # called only on a change: it imports the compiler, which takes more than a second
    if config.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config.deterministic)


def check_matmul_precision(config: RunConfig) -> None:
    """ConfigError if products shall be rounded, and this CPU has no instructions for it."""
    if config.matmul_precision != "highest" and config.device == "cpu" and not multiplies_bfloat16():
        raise ConfigError(
            f"matmul_precision={config.matmul_precision}: this CPU has no instructions for bfloat16; type"
            " matmul_precision=highest"
        )


def multiplies_bfloat16() -> bool:
    """Whether torch rounds the factors of float32 products on this CPU when it is told to."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
