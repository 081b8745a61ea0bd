"""The replay memory: what it gives back, by a naive one beside it; its priorities; its chunks; what it
refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audit import load_all_rows, rows_of

from rl.algos.agent import Rollout
from rl.config.schedule import Schedule
from rl.learning.prioritized import PrioritizedReplay, SumTree
from rl.learning.replay import Batch, Transitions, UniformReplay
from rl.serialize import load, serialize

GAMMA = 0.9
Frames = Callable[[int, int, int], Any]  # (env, episode, step) -> one frame


def told(
    *,
    num_envs: int = 2,
    n_step: int = 1,
    stack: int = 1,
    learning_starts: int | None = None,
    zero_padded: bool = False,
) -> Transitions:
    shape, dtype = ((stack, 3), np.uint8) if stack > 1 else ((3,), np.float32)
    least = (n_step + stack - 1) * num_envs
    starts = least if learning_starts is None else learning_starts
    return Transitions(shape, dtype, stack, (), np.int64, num_envs, GAMMA, n_step, starts, zero_padded)


def uniform(capacity: int, on_resume: str = "restore", **about: int) -> UniformReplay:
    return allocated(UniformReplay(told(**about), capacity=capacity, on_resume=on_resume))


def prioritized(capacity: int, on_resume: str = "restore", **about: int) -> PrioritizedReplay:
    beta = Schedule([[0, 0.4], [100, 1.0]])
    return allocated(
        PrioritizedReplay(
            told(**about), capacity=capacity, on_resume=on_resume, alpha=0.6, beta=beta, epsilon=1e-3
        )
    )


def allocated(memory: Any) -> Any:
    memory.allocate(2**30)
    return memory


class World:
    """N envs whose observations say who they are and when; what they live through is written down in full.

    In a `game` half of what terminates are lost lives, after which the frames go on.
    """

    def __init__(
        self, num_envs: int, stack: int = 1, seed: int = 0, zero_padded: bool = False, game: bool = False
    ) -> None:
        self.rng, self.num_envs, self.stack = np.random.default_rng(seed), num_envs, stack
        self.zero_padded, self.game = zero_padded, game
        self.frames: list[list[Any]] = [[self._frame(n, 0)] for n in range(num_envs)]  # of each env's episode
        self.moments = [0] * num_envs
        self.begun: list[int] = []  # what the next rollout says
        # [row][env]: obs, action, reward, terminated, done, next_obs
        self.steps: list[list[tuple[Any, ...]]] = []

    def _frame(self, n: int, moment: int) -> Any:
        return np.array([n, moment % 251, moment // 251], np.uint8 if self.stack > 1 else np.float32)

    def _obs(self, n: int) -> Any:
        frames = self.frames[n]
        if self.stack == 1:
            return frames[-1]
        before = np.zeros_like(frames[0]) if self.zero_padded else frames[0]
        return np.stack([before] * (self.stack - len(frames)) + frames[-self.stack :])

    def live(self, length: int) -> Rollout:
        n = self.num_envs
        first = np.stack([self._obs(env) for env in range(n)])
        obs = np.zeros((length + 1, *first.shape), first.dtype)
        obs[0] = first
        action, reward = (
            self.rng.integers(5, size=(length, n)),
            self.rng.normal(size=(length, n)).astype(np.float32),
        )
        terminated = self.rng.random((length, n)) < 0.12
        truncated = ~terminated & (self.rng.random((length, n)) < 0.12)
        finals = []
        for t in range(length):
            row = []
            for env in range(n):
                before = self._obs(env)
                self.moments[env] += 1
                self.frames[env].append(self._frame(env, self.moments[env]))
                after, done = self._obs(env), terminated[t, env] or truncated[t, env]
                row.append((before, action[t, env], reward[t, env], terminated[t, env], done, after))
                if done and not (self.game and terminated[t, env] and self.rng.random() < 0.5):
                    finals.append((t, env, after))
                    self.moments[env] += 1
                    self.frames[env] = [self._frame(env, self.moments[env])]
                obs[t + 1, env] = self._obs(env)
            self.steps.append(row)
        begun, self.begun = self.begun, []
        return Rollout(obs, action, reward, terminated, truncated, final_obs=finals, begun=begun)

    def begin_another(self, env: int) -> None:
        """As on a resume that cannot restore an env's episode: it is over after the last step."""
        *step, _, after = self.steps[-1][env]
        self.steps[-1][env] = (*step, True, after)
        self.moments[env] += 1
        self.frames[env] = [self._frame(env, self.moments[env])]
        self.begun.append(env)

    def expected(self, number: int, n_step: int) -> tuple[Any, ...]:
        """obs, action, reward, discount and next_obs of a transition over n steps, by hand."""
        row, env = divmod(number, self.num_envs)
        obs, action, *_ = self.steps[row][env]
        total = 0.0
        for k in range(n_step):
            _, _, reward, terminated, done, after = self.steps[row + k][env]
            total += GAMMA**k * reward
            if done:
                break
        return obs, action, total, 0.0 if terminated else GAMMA ** (k + 1), after


def drawable(memory: UniformReplay) -> range:
    return range(memory._low * memory.num_envs, memory._high * memory.num_envs)


def check(memory: UniformReplay, world: World) -> None:
    """Every transition that can be drawn is what was lived."""
    numbers = drawable(memory)
    batch = memory._gather(np.array(numbers, np.int64), np.ones(len(numbers), np.float32))
    for i, number in enumerate(numbers):
        obs, action, reward, discount, next_obs = world.expected(number, memory.n_step)
        np.testing.assert_array_equal(batch.obs[i], obs)
        assert batch.action[i] == action
        np.testing.assert_allclose(batch.reward[i], reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.discount[i], discount, rtol=1e-6)
        np.testing.assert_array_equal(batch.next_obs[i], next_obs)


CASES = [(1, 1, 1), (2, 1, 1), (3, 3, 1), (2, 5, 1), (2, 1, 4), (3, 3, 4)]


@pytest.mark.parametrize(("num_envs", "n_step", "stack"), CASES)
@pytest.mark.parametrize("capacity", [24, 1000])
@pytest.mark.parametrize(("zero_padded", "game"), [(False, False), (True, True), (False, True)])
def test_every_transition_comes_back_as_it_was_lived(
    num_envs: int, n_step: int, stack: int, capacity: int, zero_padded: bool, game: bool
) -> None:
    memory = uniform(capacity, num_envs=num_envs, n_step=n_step, stack=stack, zero_padded=zero_padded)
    world = World(num_envs, stack, zero_padded=zero_padded, game=game)
    total = 0
    for length in [1, 4, 7, 1, 16, 30, 2, 5, 9] * 2:
        memory.add(world.live(length))
        total += length
        whole = max(0, total - n_step + 1)
        assert len(drawable(memory)) == min(whole, -(-capacity // num_envs)) * num_envs
        check(memory, world)


def test_the_check_finds_a_transition_that_is_not_as_it_was_lived() -> None:
    memory, world = uniform(100), World(2)
    memory.add(world.live(10))
    memory._rings["reward"][3, 1] += 1
    with pytest.raises(AssertionError):
        check(memory, world)


def test_a_stack_is_kept_as_single_frames() -> None:
    assert uniform(1000, stack=4).layout["frames"][0] == (3,)
    # bytes in place of floats, and one frame each
    assert uniform(1000, stack=4).bytes < uniform(1000, stack=1).bytes


def test_draws_are_uniform_over_all_that_can_be_drawn_and_come_from_the_stream() -> None:
    memory, world = uniform(20), World(2)
    for _ in range(4):
        memory.add(world.live(6))
    draws = memory.sample(40_000, np.random.default_rng(1), 0).number
    counts = np.bincount(draws - drawable(memory)[0], minlength=20)
    assert len(counts) == 20
    assert abs(counts - 2000).max() < 250
    again = memory.sample(40_000, np.random.default_rng(1), 0).number
    np.testing.assert_array_equal(draws, again)


# --------------------------------------------------------------------------------------------- updates earned


def test_updates_are_earned_by_frames_and_only_with_the_memory_at_its_threshold() -> None:
    memory, world = uniform(100, num_envs=2, learning_starts=24), World(2)
    made = []
    for _ in range(6):
        rollout = world.live(5)
        memory.add(rollout)
        made.append(list(memory.updates_due(memory.end * 2, rollout.reward.size, Fraction(1, 4))))
    # 10 frames each; 24 are needed first: of the third rollout's frames the last 6 count, and update 7 is
    # earned at frame 28
    assert made == [[], [], [7], [8, 9, 10], [11, 12], [13, 14, 15]]


def test_a_refilled_memory_makes_no_burst_of_updates() -> None:
    memory, world = uniform(100, "refill", learning_starts=20), World(2)
    for _ in range(4):
        memory.add(world.live(5))
    resumed = uniform(100, "refill", learning_starts=20)
    resumed.load_state_dict(memory.state_dict())
    assert (resumed.begin, resumed.end, len(drawable(resumed))) == (20, 20, 0)
    made = []
    for _ in range(4):
        resumed.add(world.live(5))
        check(resumed, world)
        made.append(len(resumed.updates_due(resumed.end * 2, 10, Fraction(1, 2))))
    assert made == [0, 0, 5, 5]
    assert "about 20 frames pass without training" in resumed.not_exact[0]


@pytest.mark.parametrize("stack", [1, 4])
def test_a_refilled_memory_gives_nothing_of_what_it_does_not_hold(stack: int) -> None:
    memory, world = uniform(40, "refill", stack=stack, n_step=2), World(2, stack)
    memory.add(world.live(33))
    resumed = uniform(40, "refill", stack=stack, n_step=2)
    resumed.load_state_dict(memory.state_dict())
    for length in (1, 2, 1, 30, 10):
        resumed.add(world.live(length))
        assert drawable(resumed)[0] >= (33 + stack - 1) * 2 if len(drawable(resumed)) else True
        check(resumed, world)


# ----------------------------------------------------------------------------------------------------- chunks


def write_chunk(memory: UniformReplay, folder: Path) -> None:
    chunk = memory.take_chunk()
    assert chunk is not None
    (folder / f"{chunk.end:06d}").write_bytes(b"".join(bytes(part) for part in chunk.buffers))


@pytest.mark.parametrize("make", [uniform, prioritized])
@pytest.mark.parametrize(("num_envs", "n_step", "stack"), CASES)
@pytest.mark.parametrize("capacity", [24, 1000])
def test_a_memory_comes_back_from_its_chunks(
    make: Any, num_envs: int, n_step: int, stack: int, capacity: int, tmp_path: Path
) -> None:
    memory, world = make(capacity, num_envs=num_envs, n_step=n_step, stack=stack), World(num_envs, stack)
    rng = np.random.default_rng(0)
    for length in [1, 7, 16, 30, 3, 9] * 2:
        memory.add(world.live(length))
        write_chunk(memory, tmp_path)
        if len(drawable(memory)):
            batch = memory.sample(8, rng, 50)
            memory.update_priorities(batch.number, torch.from_numpy(rng.random(8)))
        resumed = make(capacity, num_envs=num_envs, n_step=n_step, stack=stack)
        resumed.load_state_dict(memory.state_dict())
        for path in sorted(tmp_path.iterdir()):
            if int(path.name) > memory.oldest:
                resumed.load_chunk(path)
        assert rows_of(resumed) == rows_of(memory)
        check(resumed, world)
        if len(drawable(memory)):
            one, other = (m.sample(50, np.random.default_rng(2), 50) for m in (memory, resumed))
            assert_equal(one, other)
    assert resumed.take_chunk() is None


def assert_equal(one: Batch, other: Batch) -> None:
    for name, value in one._asdict().items():
        np.testing.assert_array_equal(value, getattr(other, name))


@pytest.mark.parametrize("make", [uniform, prioritized])
@pytest.mark.parametrize(("num_envs", "n_step", "stack"), CASES)
@pytest.mark.parametrize("game", [False, True])
def test_an_episode_that_no_resume_can_restore_ends(
    make: Any, num_envs: int, n_step: int, stack: int, game: bool, tmp_path: Path
) -> None:
    """Its last transition leads to what it had led to, in this session and those after."""
    memory, world = make(60, num_envs=num_envs, n_step=n_step, stack=stack), World(num_envs, stack, game=game)
    for length in [9, 5, 1, 1, 30, 2, 40]:
        memory.add(world.live(length))
        check(memory, world)
        write_chunk(memory, tmp_path)
        kept, memory = memory, make(60, num_envs=num_envs, n_step=n_step, stack=stack)
        memory.load_state_dict(load(serialize(kept.state_dict()), "cpu"))
        for path in sorted(tmp_path.iterdir()):
            if int(path.name) > memory.oldest:
                memory.load_chunk(path)
        assert rows_of(memory) == rows_of(kept)
        check(memory, world)
        for env in range(0, num_envs, 2):
            world.begin_another(env)
    assert memory.cuts.keys() <= set(range(memory.oldest * num_envs, memory.end * num_envs))


def test_the_check_finds_an_episode_that_goes_on_in_another() -> None:
    memory, world = uniform(100), World(2)
    memory.add(world.live(12))
    for env in range(2):
        world.begin_another(env)
    rollout = world.live(10)
    rollout.begun = []
    memory.add(rollout)
    with pytest.raises(AssertionError):
        check(memory, world)


def test_without_a_chunk_the_memory_is_not_what_it_was(tmp_path: Path) -> None:
    memory, world = uniform(1000), World(2)
    for _ in range(3):
        memory.add(world.live(10))
        write_chunk(memory, tmp_path)
    resumed = uniform(1000)
    resumed.load_state_dict(memory.state_dict())
    for path in sorted(tmp_path.iterdir())[::2]:
        resumed.load_chunk(path)
    assert rows_of(resumed) != rows_of(memory)


def test_each_transition_is_written_once_and_at_most_the_capacity() -> None:
    memory, world = uniform(40), World(2)
    memory.add(world.live(15))
    sizes = []
    for length in (5, 5, 5, 100):
        memory.take_chunk()
        memory.add(world.live(length))
        chunk = memory.take_chunk()
        assert chunk is not None
        sizes.append(chunk.end - chunk.first)
        memory.written = chunk.first  # to be taken again below
    assert sizes == [5, 5, 5, 20]


def test_a_cut_chunk_and_one_of_another_memory_are_refused(tmp_path: Path) -> None:
    memory, world = uniform(40), World(2)
    memory.add(world.live(15))
    (tmp_path / "chunk").write_bytes(rows_of(memory)[:-50])
    fresh = uniform(40)
    fresh.load_state_dict(memory.state_dict())
    with pytest.raises(ValueError, match="too early"):
        fresh.load_chunk(tmp_path / "chunk")
    other = uniform(40, num_envs=4)
    with pytest.raises(ValueError, match="another kind"):
        other.load_chunk(tmp_path / "chunk")


def test_the_ends_of_episodes_grow_and_go_with_their_transitions() -> None:
    memory, world = uniform(30), World(2)
    for _ in range(50):
        memory.add(world.live(20))
    there = memory.ends.stop - memory.ends.first
    assert 0 < there <= 2 * 16
    assert len(memory.ends.numbers) <= 128


# ------------------------------------------------------------------------------------------------- priorities


def test_the_tree_sums_and_finds_as_a_running_sum_does() -> None:
    rng = np.random.default_rng(0)
    tree, values = SumTree(37), np.zeros(37)
    for _ in range(200):
        index = rng.integers(37, size=6)
        new = rng.random(6) * (rng.random(6) < 0.7)
        tree.set(index, new)
        for i, value in zip(index, new, strict=True):
            values[i] = value
        np.testing.assert_array_equal(tree.leaves[:37], values)
        np.testing.assert_allclose(tree.total, values.sum())
    mass = rng.random(1000) * tree.total
    found, there = tree.find(mass)
    np.testing.assert_array_equal(found, np.searchsorted(np.cumsum(values), mass, side="right"))
    np.testing.assert_array_equal(there, values[found])


def test_a_tree_that_is_built_anew_is_the_same_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    tree = SumTree(1000)
    for _ in range(300):
        tree.set(rng.integers(1000, size=32), rng.random(32) ** 9)
    fresh = SumTree(1000)
    fresh.set_all(tree.leaves[:1000])
    np.testing.assert_array_equal(fresh.nodes, tree.nodes)
    fresh.set(np.arange(1000), tree.leaves[:1000])
    np.testing.assert_array_equal(fresh.nodes, tree.nodes)


def test_what_has_no_priority_is_never_found_not_even_at_the_edges() -> None:
    tree = SumTree(64)
    tree.set(np.array([3, 40]), np.array([0.1, 1e-12]))
    found, there = tree.find(np.array([0.0, 0.1, tree.total, np.nextafter(tree.total, 0), 2 * tree.total]))
    assert set(found) <= {3, 40}
    assert (there > 0).all()


def test_priorities_are_drawn_by_equation_1_and_weighted_by_section_3_4() -> None:
    memory, world = prioritized(20), World(2)
    memory.add(world.live(10))
    numbers = np.array(drawable(memory))
    error = np.linspace(-2, 3, 20)
    memory.update_priorities(numbers, torch.from_numpy(error))
    p = (abs(error) + 1e-3) ** 0.6
    p /= p.sum()
    batch = memory.sample(50_000, np.random.default_rng(0), 50)
    counts = np.bincount(batch.number, minlength=20) / 50_000
    np.testing.assert_allclose(counts, p, atol=5e-5)  # one draw from each equal share
    weight = (20 * p) ** -0.7  # beta is half way from 0.4 to 1
    np.testing.assert_allclose(batch.weight, (weight / weight.max())[batch.number], rtol=1e-5)


def test_what_is_new_has_the_highest_priority_so_far_and_what_is_old_none() -> None:
    memory, world = prioritized(20, n_step=3), World(2)
    memory.add(world.live(10))
    memory.update_priorities(np.array([4, 5]), torch.tensor([9.0, -1.0]))
    memory.add(world.live(6))
    slots = 2 * memory.rows
    in_tree = np.flatnonzero(memory.tree.leaves[:slots])
    assert sorted(in_tree) == sorted(number % slots for number in drawable(memory))
    newest = np.array(drawable(memory)[-12:])
    np.testing.assert_allclose(memory.tree.leaves[newest % slots], 9.001**0.6, rtol=1e-6)


def test_the_tree_comes_back_with_the_memory() -> None:
    memory, world = prioritized(20), World(2)
    memory.add(world.live(30))
    memory.update_priorities(np.array(drawable(memory)), torch.rand(20))
    resumed = prioritized(20)
    resumed.load_state_dict(memory.state_dict())
    load_all_rows(resumed, memory)
    np.testing.assert_array_equal(resumed.tree.nodes, memory.tree.nodes)


# --------------------------------------------------------------------------------------------------- refusals


def test_a_threshold_that_can_not_be_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        ValueError, match="algo.learning_starts=200 must be from 2, .* to algo.replay.capacity=100"
    ):
        uniform(100, learning_starts=200)
    with pytest.raises(ValueError, match="algo.learning_starts=5 must be from 6"):
        uniform(100, n_step=3, learning_starts=5)


def test_a_memory_beyond_ram_is_refused_with_the_number_and_one_that_fits() -> None:
    memory = UniformReplay(told(), capacity=10**6, on_resume="restore")
    with pytest.raises(
        ValueError,
        match=r"algo.replay.capacity=1000000 takes 0.0 GiB, .* algo.replay.capacity=(\d+) would fit",
    ) as caught:
        memory.allocate(10**7)
    fits = int(str(caught.value).split("capacity=")[2].split()[0])
    UniformReplay(told(), capacity=fits, on_resume="restore").allocate(10**7)
    memory.allocate(10**9)
    assert sum(ring.nbytes for ring in memory._rings.values()) == memory.bytes
