"""The running statistics that observations and rewards are normalised by."""

import io

import numpy as np
import pytest
import torch

from rl.learning.normalize import Moments, ObsNormalizer, RewardNormalizer


def saved_and_loaded(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_moments_of_batches_equal_numpys_of_everything():
    rng = np.random.default_rng(0)
    batches = [rng.normal(5.0, 3.0, (size, 3)) for size in (1, 7, 100, 2)]
    moments = Moments((3,))
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var, everything.var(0), rtol=1e-12)
    assert moments.count == len(everything)


def test_moments_of_large_numbers_close_together_keep_their_variance():
    moments = Moments()
    for batch in np.split(1e8 + np.arange(1000) % 2, 10):
        moments.update(batch)
    assert float(moments.var) == pytest.approx(0.25)


def test_observations_come_out_with_mean_0_and_variance_1():
    obs = np.random.default_rng(0).normal(-4.0, 0.1, (64, 4, 3)).astype(np.float32)
    normalizer = ObsNormalizer((3,))
    normalizer.update(obs)
    result = normalizer(obs)
    assert result.dtype == np.float32
    assert result.shape == obs.shape
    np.testing.assert_allclose(result.mean((0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(result.std((0, 1)), 1, atol=1e-3)


def test_observations_pass_unchanged_before_any_statistics():
    obs = np.array([[0.5, -2.0]], np.float32)
    np.testing.assert_allclose(ObsNormalizer((2,))(obs), obs, rtol=1e-6)


def test_bytes_are_normalised_without_overflow():
    obs = np.array([[0], [200], [255]], np.uint8)
    normalizer = ObsNormalizer((1,))
    normalizer.update(obs)
    np.testing.assert_allclose(normalizer(obs).ravel(), (obs.ravel() - obs.mean()) / obs.std(), rtol=1e-5)


def test_outliers_and_constants_are_clipped():
    normalizer = ObsNormalizer((2,), clip=3.0)
    normalizer.update(np.array([[0.0, 7.0], [1.0, 7.0]]))
    assert normalizer(np.array([[1e6, 8.0], [-1e6, 6.0]])).tolist() == [[3.0, 3.0], [-3.0, -3.0]]


def test_normalising_changes_no_statistics():
    normalizer = ObsNormalizer((2,))
    normalizer.update(np.random.default_rng(0).normal(size=(10, 2)))
    before = saved_and_loaded(normalizer.state_dict())
    normalizer(np.full((5, 2), 100.0))
    after = normalizer.state_dict()
    assert all(torch.equal(torch.as_tensor(before[name]), torch.as_tensor(after[name])) for name in before)


def slow_discounted_returns(reward, done, gamma):
    """Return so far of each env at each step, by the definition."""
    result = np.zeros(reward.shape)
    for t, n in np.ndindex(reward.shape):
        begin = max([k + 1 for k in range(t) if done[k, n]], default=0)
        result[t, n] = sum(gamma ** (t - k) * reward[k, n] for k in range(begin, t + 1))
    return result


def test_rewards_are_divided_by_the_deviation_of_discounted_returns_over_rollouts():
    rng = np.random.default_rng(1)
    reward, done = rng.normal(2.0, 5.0, (40, 3)), rng.random((40, 3)) < 0.1
    normalizer = RewardNormalizer(3, 0.9, clip=100.0)
    for rows in (slice(0, 13), slice(13, 40)):  # an episode may span two rollouts
        normalizer.update(reward[rows], done[rows])
    expected = reward / slow_discounted_returns(reward, done, 0.9).std()
    np.testing.assert_allclose(normalizer(reward), expected, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: ObsNormalizer((2,)), lambda: RewardNormalizer(2, 0.9)])
def test_a_loaded_normaliser_goes_on_like_the_one_saved(make):
    rng = np.random.default_rng(2)

    def update(normalizer, values):
        normalizer.update(values) if isinstance(normalizer, ObsNormalizer) else normalizer.update(
            values, values > 1
        )

    one, other = make(), make()
    update(one, rng.normal(size=(8, 2)))
    other.load_state_dict(saved_and_loaded(one.state_dict()))
    more = rng.normal(size=(8, 2))
    for normalizer in (one, other):
        update(normalizer, more)
    assert one(more).tobytes() == other(more).tobytes()
