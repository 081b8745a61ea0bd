"""Losses as pure functions of tensors [B]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def clipped_policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip_range: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Minus PPO's clipped surrogate objective (Schulman et al. 2017, eq. 7), the policy's divergence and the
    share of clipped ratios.

    With the ratio of the new probability to the old: -mean min(ratio * A, clip(ratio, 1 - clip_range, 1 +
    clip_range) * A).
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    with torch.no_grad():
        approx_kl = (ratio - 1 - log_ratio).mean()  # Schulman's estimator k3: unbiased, and never below 0
        clip_fraction = (ratio != clipped).float().mean()
    return loss, approx_kl, clip_fraction


def clipped_value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip_range: Any) -> Tensor:
    """The mean squared error; with a `clip_range` of the worse of the value and the value held so near to the
    old one.
    """
    error = (value - target).square()
    if clip_range is not None:
        near = old_value + (value - old_value).clamp(-clip_range, clip_range)
        error = torch.maximum(error, (near - target).square())
    return error.mean()
