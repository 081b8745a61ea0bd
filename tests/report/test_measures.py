"""Statistics of curves and scores: hand numbers, and how they relate."""

from __future__ import annotations

import numpy as np
import pytest

from rl.report import measures
from rl.report.measures import bootstrap_interval, consistency, efficiency, iqm, mean, stability, strength

CURVE, FRAMES = np.array([0.0, 10.0, 30.0, 20.0]), np.array([100.0, 200.0, 300.0, 400.0])


def test_the_four_measures_by_hand() -> None:
    assert strength(CURVE) == 15.0
    # (0/100 + 10/200 + 30/300 + 20/400) / (1/100 + 1/200 + 1/300 + 1/400) = 0.2 / (25/1200)
    assert efficiency(CURVE, FRAMES) == pytest.approx(0.2 * 1200 / 25)
    assert stability(CURVE) == 1 - 10 / 40  # one fall of 10; 0 + 10 + 30 before the last
    # deviations of the pairs (0, 2), (10, 10): sqrt(2), 0; means 1, 10
    assert consistency(np.array([[0.0, 10.0], [2.0, 10.0]])) == pytest.approx(1 - 2 * np.sqrt(2) / 11)


def test_what_means_nothing_is_none() -> None:
    assert stability(np.array([5.0])) is None
    assert stability(np.array([-5.0, 3.0])) is None
    assert consistency(np.array([[1.0, 2.0]])) is None
    assert consistency(np.array([[-1.0], [1.0]])) is None
    assert efficiency(np.array([1.0]), np.array([0.0])) is None


def test_random_actions_have_no_strength_and_points_scale_it() -> None:
    assert strength(np.zeros(4)) == efficiency(np.zeros(4), FRAMES) == 0
    assert strength(3 * CURVE) == 3 * strength(CURVE)
    assert efficiency(3 * CURVE, FRAMES) == pytest.approx(3 * efficiency(CURVE, FRAMES))  # type: ignore[operator]
    assert efficiency(CURVE, 7 * FRAMES) == pytest.approx(efficiency(CURVE, FRAMES))
    assert stability(3 * CURVE) == stability(CURVE)


def test_efficiency_rewards_early_learning_and_strength_does_not() -> None:
    early, late = np.array([10.0, 10.0, 0.0, 0.0]), np.array([0.0, 0.0, 10.0, 10.0])
    assert strength(early) == strength(late)
    assert efficiency(early, FRAMES) > efficiency(late, FRAMES)  # type: ignore[operator]
    assert efficiency(np.full(4, 6.0), FRAMES) == pytest.approx(6)


def test_rising_curves_are_stable_and_equal_seeds_consistent() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rising = np.cumsum(rng.random(rng.integers(2, 30)))
        assert stability(rising) == 1
        assert consistency(np.stack([rising, rising])) == 1
        noisy = rising[None] + rng.normal(size=(4, len(rising)))
        assert consistency(noisy) < 1  # type: ignore[operator]
        assert consistency(noisy[::-1]) == pytest.approx(consistency(noisy))


def test_the_interquartile_mean_cuts_a_quarter_from_either_end() -> None:
    assert iqm(np.array([1.0, 2.0, 9.0])) == 4  # fewer than four: the mean
    assert iqm(np.array([100.0, 2.0, 4.0, -50.0])) == 3
    assert iqm(np.array([5.0, 1.0, 3.0, 2.0, 999.0])) == pytest.approx(10 / 3)
    assert iqm(np.arange(8.0)) == 3.5
    assert np.array_equal(iqm(np.array([[0.0, 9.0], [1.0, 9.0], [1.0, 9.0], [7.0, 9.0]])), [1, 9])


@pytest.mark.parametrize("center", [mean, iqm])
def test_the_interval_depends_on_its_seed_and_contains_the_center(center: measures.Center) -> None:
    runs = np.random.default_rng(1).normal(size=(8, 3))
    low, high = bootstrap_interval([runs], center)
    assert ((low < center(runs)) & (center(runs) < high)).all()
    assert all(
        np.array_equal(one, other)
        for one, other in zip((low, high), bootstrap_interval([runs], center), strict=True)
    )
    assert not np.array_equal(low, bootstrap_interval([runs], center, seed=1)[0])
    wide = bootstrap_interval([runs], center, level=0.99)
    assert (wide[0] <= low).all()
    assert (wide[1] >= high).all()
    assert np.allclose(bootstrap_interval([2 * runs + 5], center)[0], 2 * low + 5)


def test_the_interval_of_two_runs_by_hand() -> None:
    low, high = bootstrap_interval([np.array([[0.0], [1.0]])], mean)
    assert (low[0], high[0]) == (0, 1)  # a quarter of the resamples is 0, 0 and a quarter 1, 1
    assert bootstrap_interval([np.array([[3.0], [3.0]])], mean) == (3, 3)


def test_every_environment_is_resampled_on_its_own() -> None:
    same = np.array([[0.0], [0.0]]), np.array([[1.0], [1.0]])
    assert bootstrap_interval(same, mean) == (0.5, 0.5)
    low, high = bootstrap_interval([np.concatenate(same)], mean)
    assert low[0] < 0.5 < high[0]


def test_one_run_has_no_interval() -> None:
    assert np.isnan(bootstrap_interval([np.array([[1.0, 2.0]])], iqm)).all()


def test_the_interval_covers_the_true_mean_at_its_level() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for trial in range(300):
        low, high = bootstrap_interval([rng.normal(size=(20, 1))], mean, resamples=500, seed=trial)
        held += bool(low[0] <= 0 <= high[0])
    assert 0.88 <= held / 300 <= 0.98
