"""The lean step of synchronous envs is gymnasium's."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rl.envs.episodes import Episodes
from rl.envs.make import make_factory
from rl.envs.vector import make_vector


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_its_transitions_are_those_of_gymnasiums_vector_env(env_id):
    factory = make_factory(env_id, {}, [])
    lean = make_vector(factory, 3, "sync", seed=5)
    plain = SyncVectorEnv(
        [lambda n=n: Episodes(factory(), 5, n) for n in range(3)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    np.testing.assert_array_equal(lean.reset()[0], plain.reset()[0])
    rng, ends = np.random.default_rng(0), 0
    for _ in range(450):
        actions = (
            rng.integers(0, 2, 3)
            if env_id == "CartPole-v1"
            else rng.uniform(-3, 3, (3, 1)).astype(np.float32)
        )
        one, other = lean.step(actions), plain.step(actions)
        for ours, theirs in zip(one[:4], other[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert ("final_obs" in one[4]) == ("final_obs" in other[4])
        for n in np.flatnonzero(one[4].get("_final_obs", [])):
            ends += 1
            np.testing.assert_array_equal(one[4]["final_obs"][n], other[4]["final_obs"][n])
    assert ends >= 6
    lean.close()
    plain.close()
