"""Statistics of learning curves and of scores over seeds, each with its equation and source.

[Keng] W. L. Keng, L. Graesser, M. Cvitkovic: SLM Lab: A Comprehensive Benchmark and Modular Software
Framework for Reproducible Deep Reinforcement Learning, arXiv:1912.12482, 2019, and the docstrings of SLM
Lab's analysis module. [Agarwal] R. Agarwal et al.: Deep Reinforcement Learning at the Edge of the Statistical
Precipice, NeurIPS 2021 (rliable).

The local strength str_i of evaluation i is its return above that of random actions: R_i - R_random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Center = Callable[[Floats], Floats]  # over the first axis


def strength(strengths: Floats) -> float:
    """[Keng] str = 1/N sum_i str_i, the mean over the curve, in units of return; 0 for random actions."""
    return float(np.mean(strengths))


def efficiency(strengths: Floats, frames: Floats) -> float | None:
    """[Keng] e = (sum_i str_i / t_i) / (sum_i 1 / t_i), with t_i the frames of evaluation i.

    A mean that gives early evaluations more weight, in units of return. None if no t_i is positive. This is
    the documented formula; SLM Lab's code divides by sum_i str_i instead of sum_i 1 / t_i.
    """
    later = frames > 0
    return float(np.average(strengths[later], weights=1 / frames[later])) if later.any() else None


def stability(strengths: Floats) -> float | None:
    """[Keng] sta = 1 - |sum_i min(str_{i+1} - str_i, 0) / sum_i str_i|, i = 0 .. N-2.

    1 for a curve that never falls. None with fewer than two evaluations, or if the denominator is <= 0.
    """
    drops, total = np.minimum(np.diff(strengths), 0).sum(), strengths[:-1].sum()
    return float(1 - abs(drops / total)) if total > 0 else None


def consistency(strengths: Floats) -> float | None:
    """[Keng] con = 1 - (sum_i 2 stdev_j str_{i,j}) / (sum_i avg_j str_{i,j}), j over seeds.

    1 for seeds that agree. `strengths`: [S, N]; the standard deviation is that of a sample (S - 1). None with
    one seed, or if the denominator is <= 0.
    """
    total = strengths.mean(axis=0).sum() if len(strengths) > 1 else 0.0
    return float(1 - 2 * strengths.std(axis=0, ddof=1).sum() / total) if total > 0 else None


def mean(scores: Floats) -> Floats:
    """Mean over the first axis."""
    return np.asarray(scores.mean(axis=0))


def iqm(scores: Floats) -> Floats:
    """[Agarwal] The interquartile mean over the first axis: the mean without floor(S / 4) at either end.

    For fewer than four scores it is the mean.
    """
    cut = len(scores) // 4
    return mean(np.sort(scores, axis=0)[cut : len(scores) - cut])


def bootstrap_interval(
    strata: Sequence[NDArray[Any]],
    center: Center,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """[Agarwal] The stratified percentile bootstrap of a center over runs: lower and upper bound, each [T].

    `strata`: the scores of each environment's runs, [S, T]; every resample draws S runs of each environment
    with replacement, as whole curves. The draws depend only on `seed`. NaN if an environment has one run.
    """
    if any(len(runs) < 2 for runs in strata):
        return (np.full(strata[0].shape[1:], np.nan),) * 2
    rng = np.random.default_rng(seed)
    # each [S, resamples, T]
    drawn = [runs[rng.integers(len(runs), size=(len(runs), resamples))] for runs in strata]
    centers = center(np.concatenate(drawn))
    low, high = np.quantile(centers, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
