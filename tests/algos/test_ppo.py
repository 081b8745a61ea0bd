"""PPO: generalised advantages, its loss, and what it refuses."""

import numpy as np
import pytest
import torch

from rl.algos.ppo import Batch
from rl.config import ConfigError, RunConfig, compare
from rl.config.compose import compose
from rl.learning.compiled import Constants
from rl.learning.distributions import Categorical, DiagonalGaussian, MultiCategorical
from rl.learning.gradient_step import GradientStep
from rl.learning.optimizers import Adam, RMSprop
from rl.learning.returns import gae, returns_to_go
from rl.training.build import build


def ppo(*overrides):
    config = compose(
        ["algo=ppo", "env=cartpole", "algo.rollout_length=16", "algo.minibatch_size=16", *overrides],
        RunConfig,
    ).config
    return build(config)


# -------------------------------------------------------------------------------------------------------- gae


def column(*values):
    return np.array(values, np.float64)[:, None]


def test_gae_by_hand():
    no = np.zeros((3, 1), bool)
    advantage = gae(column(1, 1, 1), column(0.5, 1, 2), column(1, 2, 4), no, no, gamma=0.5, gae_lambda=0.5)
    # deltas: 1 + 0.5 - 0.5 = 1;  1 + 1 - 1 = 1;  1 + 2 - 2 = 1;  each carries a quarter of the next
    assert advantage.ravel().tolist() == [1.3125, 1.25, 1.0]


def test_a_terminated_episode_is_worth_nothing_afterwards():
    terminated = np.array([[False], [True], [False]])
    advantage = gae(
        column(1, 1, 1),
        column(0.5, 1, 2),
        column(1, 99, 4),
        terminated,
        terminated,
        gamma=0.5,
        gae_lambda=0.5,
    )
    assert advantage.ravel().tolist() == [1.0, 0.0, 1.0]


def test_a_truncated_episode_is_bootstrapped_and_carries_nothing_over_the_reset():
    done, no = np.array([[False], [True], [False]]), np.zeros((3, 1), bool)
    advantage = gae(column(1, 1, 1), column(0.5, 1, 2), column(1, 6, 4), no, done, gamma=0.5, gae_lambda=0.5)
    assert advantage.ravel().tolist() == [1.75, 3.0, 1.0]


def random_steps(rng, t=50, n=4):
    terminated = rng.random((t, n)) < 0.1
    done = terminated | (rng.random((t, n)) < 0.1)
    return rng.normal(size=(t, n)), rng.normal(size=(t, n)), rng.normal(size=(t, n)), terminated, done


def test_gae_equals_the_sum_that_defines_it():
    reward, value, next_value, terminated, done = random_steps(np.random.default_rng(0))
    gamma, gae_lambda = 0.97, 0.9
    expected = np.zeros_like(reward)
    for t, n in np.ndindex(reward.shape):
        weight = 1.0
        for k in range(t, len(reward)):
            after = 0.0 if terminated[k, n] else next_value[k, n]
            expected[t, n] += weight * (reward[k, n] + gamma * after - value[k, n])
            if done[k, n]:
                break
            weight *= gamma * gae_lambda
    np.testing.assert_allclose(
        gae(reward, value, next_value, terminated, done, gamma, gae_lambda), expected, rtol=1e-12
    )


def test_gae_with_lambda_1_is_the_bootstrapped_return_less_the_value():
    reward, value, next_value, terminated, done = random_steps(np.random.default_rng(1))
    inside = ~done[:-1]
    next_value[:-1][inside] = value[1:][inside]  # as one value function gives them
    expected = returns_to_go(reward, done, np.where(terminated, 0, next_value), 0.97) - value
    np.testing.assert_allclose(
        gae(reward, value, next_value, terminated, done, 0.97, 1.0), expected, rtol=1e-9
    )


def test_gae_with_lambda_0_is_the_one_step_error():
    reward, value, next_value, terminated, done = random_steps(np.random.default_rng(2))
    expected = reward + 0.97 * np.where(terminated, 0, next_value) - value
    np.testing.assert_allclose(
        gae(reward, value, next_value, terminated, done, 0.97, 0.0), expected, rtol=1e-12
    )


def test_values_of_successors_are_those_of_the_true_ones():
    parts = ppo("env.num_envs=2", "algo.rollout_length=64")
    parts.collector.start()
    rollout = parts.collector.collect(parts.agent)
    assert rollout.done.any()
    rollout.terminated[:] = False  # as if every episode had been cut off
    value_of = lambda obs: obs.astype(np.float32) @ np.array([1, 10, 100, 1000], np.float32)  # noqa: E731
    value, next_value = rollout.values(value_of)
    np.testing.assert_array_equal(value, value_of(rollout.obs[:-1]))
    np.testing.assert_allclose(next_value, value_of(rollout.next_obs), rtol=1e-6)


# ---------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize(
    ("distribution", "actions", "reference"),
    [
        (
            Categorical(3, start=2),
            torch.tensor([2, 3, 4, 4]),
            lambda p: torch.distributions.Categorical(logits=p),
        ),
        (
            DiagonalGaussian((2,)),
            torch.randn(4, 2),
            lambda p: torch.distributions.Independent(
                torch.distributions.Normal(p[:, :2], p[:, 2:].exp()), 1
            ),
        ),
    ],
)
def test_log_prob_and_entropy_equal_torchs(distribution, actions, reference):
    params = torch.randn(4, distribution.num_params)
    log_prob, entropy = distribution.log_prob_and_entropy(params, actions)
    torch.testing.assert_close(
        log_prob, reference(params).log_prob(actions - getattr(distribution, "start", 0))
    )
    torch.testing.assert_close(entropy, reference(params).entropy())
    torch.testing.assert_close(distribution.log_prob(params, actions), log_prob)
    torch.testing.assert_close(distribution.entropy(params), entropy)


def test_choices_of_a_multi_discrete_action_are_independent():
    distribution = MultiCategorical(np.array([2, 3]), np.array([0, 5]))
    params = torch.randn(4, 5)
    action = torch.tensor([[0, 5], [1, 6], [1, 7], [0, 7]])
    first, second = (
        torch.distributions.Categorical(logits=params[:, :2]),
        torch.distributions.Categorical(logits=params[:, 2:]),
    )
    log_prob, entropy = distribution.log_prob_and_entropy(params, action)
    torch.testing.assert_close(log_prob, first.log_prob(action[:, 0]) + second.log_prob(action[:, 1] - 5))
    torch.testing.assert_close(entropy, first.entropy() + second.entropy())
    torch.testing.assert_close(distribution.entropy(params), entropy)


def test_multi_discrete_actions_are_drawn_with_their_probabilities():
    distribution = MultiCategorical(np.array([2, 3]), np.array([0, 5]))
    probabilities = np.array([0.25, 0.75, 0.2, 0.3, 0.5])
    params = np.log(np.tile(probabilities, (20_000, 1)))
    action = distribution.sample(params, np.random.default_rng(0))
    drawn = [(action[:, 0] == a).mean() for a in (0, 1)] + [(action[:, 1] == a).mean() for a in (5, 6, 7)]
    np.testing.assert_allclose(drawn, probabilities, atol=0.015)
    assert distribution.mode(params[:1]).tolist() == [[1, 7]]


# ------------------------------------------------------------------------------------------ the gradient step


def two_parameter_step(optimizer, **arguments):
    module = torch.nn.Linear(2, 1)
    torch.nn.init.ones_(module.weight)
    torch.nn.init.zeros_(module.bias)

    def loss(networks, x):
        return networks(x).square().mean(), {}

    return module, GradientStep(
        module, [module], loss, optimizer=optimizer, **{"max_grad_norm": None, "compile": False, **arguments}
    )


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (lambda p, lr: Adam(p, lr, eps=1e-5), lambda p, lr: torch.optim.Adam(p, lr, eps=1e-5)),
        (
            lambda p, lr: Adam(p, lr, weight_decay=0.1),
            lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.1),
        ),
        (lambda p, lr: RMSprop(p, lr, eps=1e-5), lambda p, lr: torch.optim.RMSprop(p, lr, eps=1e-5)),
    ],
)
def test_optimizers_equal_torchs(ours, torchs):
    (module, step), (reference, reference_step) = two_parameter_step(ours), two_parameter_step(torchs)
    generator = torch.Generator().manual_seed(0)
    for lr in (1e-2, 1e-2, 3e-3, 1e-3):
        x = torch.randn(8, 2, generator=generator)
        for one in (step, reference_step):
            one.set_lr(lr)
            one(x)
    torch.testing.assert_close(module.weight, reference.weight, rtol=1e-6, atol=1e-7)


def test_the_gradient_is_clipped_to_its_norm_and_reported_before():
    module, step = two_parameter_step(torch.optim.SGD, max_grad_norm=0.5)
    step.set_lr(1.0)
    before = step.flats[0].detach().clone()
    step(torch.tensor([[3.0, 4.0]]))
    report = step.report()
    assert (report["loss"], report["grad_norm"]) == pytest.approx((49.0, 14.0 * 26**0.5))
    assert step.report() == {}
    assert float((step.flats[0] - before).norm()) == pytest.approx(0.5, rel=1e-4)


def test_each_compiled_step_keeps_its_own_graph_at_any_batch_size_and_learning_rate():
    optimizers = [Adam, lambda p, lr: Adam(p, lr, weight_decay=0.5)]  # the same code, other constants
    pairs = [(two_parameter_step(one, compile=True), two_parameter_step(one)) for one in optimizers]
    generator = torch.Generator().manual_seed(0)
    for size, lr in ((8, 1e-2), (8, 0.0), (4, 1e-3)):
        x = torch.randn(size, 2, generator=generator)
        for pair in pairs:
            for _, step in pair:
                step.set_lr(lr)
                step(x)
    for (compiled, _), (eager, _) in pairs:
        torch.testing.assert_close(compiled.weight, eager.weight, rtol=1e-6, atol=1e-7)


class Scaled:
    """A loss that reads a plain attribute, and takes a number and an option."""

    def __init__(self, compile=True):
        self.scale, self.updates = 1.0, 0
        module = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(module.weight)
        self.step = GradientStep(
            module, [module], self._loss, optimizer=Adam, max_grad_norm=None, compile=compile
        )

    def _loss(self, networks, x, coef, option=None):
        return networks(x).square().mean() * coef * self._scaling(), {}

    def _scaling(self):
        return self.scale

    def loss(self, *inputs):
        self.updates += 1  # the loss does not read it
        self.step(torch.ones(1, 2), *inputs)
        return self.step.report()["loss"]


def test_a_number_given_to_a_compiled_step_may_change():
    compiled, eager = Scaled(), Scaled(compile=False)
    for one in (compiled, eager):
        torch.nn.init.zeros_(one.step.networks.bias)
    assert [compiled.loss(coef) for coef in (1.0, 0.5, 0.25)] == [4.0, 2.0, 1.0]
    assert [eager.loss(coef) for coef in (1.0, 0.5, 0.25)] == [4.0, 2.0, 1.0]


def test_an_attribute_that_changes_under_compile_is_named():
    compiled, eager = Scaled(), Scaled(compile=False)
    before = compiled.loss(1.0), eager.loss(1.0)
    compiled.scale = eager.scale = 2.0
    assert eager.loss(1.0) == 2 * before[1]  # it counts, and in the graph it would be a constant
    with pytest.raises(RuntimeError, match="Scaled.scale was 1.0 and is 2.0 now"):
        compiled.loss(1.0)


def test_without_the_check_a_changed_attribute_stays_a_constant(monkeypatch):
    monkeypatch.setattr(Constants, "check", lambda self: None)
    compiled = Scaled()
    before = compiled.loss(1.0)
    compiled.scale = 2.0
    assert compiled.loss(1.0) == before


def test_an_option_that_changes_under_compile_is_refused():
    compiled = Scaled()
    compiled.loss(1.0, None)
    with pytest.raises(RuntimeError, match="argument 2 of the step was None and is 1.0 now"):
        compiled.loss(1.0, 1.0)


def test_a_key_that_changes_under_compile_is_named():
    parts = ppo("compile=true", "algo.epochs=1", "algo.minibatch_size=64")
    learn_once(parts)
    parts.agent.cfg.value_coef = 0.25
    with pytest.raises(RuntimeError, match="PPO.cfg.value_coef was 0.5 and is 0.25 now"):
        parts.agent.learn(parts.collector.collect(parts.agent))


@pytest.mark.parametrize("optimizer", ["rl.optimizers.Adam", "rl.optimizers.RMSprop", "torch.optim.SGD"])
def test_reinforce_takes_any_optimizer(optimizer):
    config = compose([f"algo.optimizer._target_={optimizer}", "~algo.optimizer.fused"], RunConfig).config
    parts = build(config)
    before = parts.agent.step.flats[0].detach().clone()
    learn_once(parts)
    assert not torch.equal(parts.agent.step.flats[0], before)


# ------------------------------------------------------------------------------------------------------------
# PPO


def learn_once(parts):
    parts.collector.start()
    return parts.agent.learn(parts.collector.collect(parts.agent))


def test_the_first_pass_over_the_whole_rollout_finds_a_ratio_of_1():
    report = learn_once(ppo("algo.epochs=1", "algo.minibatch_size=64"))
    assert report["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert report["clip_fraction"] == 0.0
    assert report["policy_loss"] == pytest.approx(0, abs=1e-6)  # of advantages with mean 0


def losses(parts, ratio, advantage, value, old_value, target):
    """policy_loss and value_loss of one step with this probability ratio."""
    agent = parts.agent
    params = torch.log(torch.tensor([[0.5, 0.5]]))
    numbers = torch.tensor([[advantage], [target], [old_value], [float(np.log(0.5 / ratio))]])
    networks = lambda obs: (params, torch.tensor([value]))  # noqa: E731
    cfg = agent.cfg
    clips = cfg.clip_range(0), cfg.value_clip_range and cfg.value_clip_range(0)
    batch = Batch(torch.zeros(1, 4), torch.tensor([0]), numbers)
    _, report = agent._loss(networks, batch, torch.tensor([0]), *clips, 0.0)
    return float(report["policy_loss"]), float(report["value_loss"])


@pytest.mark.parametrize(
    ("ratio", "advantage", "policy_loss"),
    [(1.1, 1.0, -1.1), (1.5, 1.0, -1.2), (0.5, 1.0, -0.5), (1.5, -1.0, 1.5), (0.5, -1.0, 0.8)],
)
def test_the_objective_is_clipped_where_it_would_pay_more(ratio, advantage, policy_loss):
    parts = ppo("algo.normalize_advantage=false", "algo.clip_range=0.2")
    assert losses(parts, ratio, advantage, 0.0, 0.0, 0.0)[0] == pytest.approx(policy_loss, rel=1e-5)


def test_values_are_clipped_only_if_asked():
    plain, clipped = (
        ppo("algo.normalize_advantage=false"),
        ppo("algo.normalize_advantage=false", "algo.value_clip_range=0.5"),
    )
    assert losses(plain, 1.0, 1.0, 2.0, 0.0, 2.0)[1] == 0.0
    assert losses(clipped, 1.0, 1.0, 2.0, 0.0, 2.0)[1] == pytest.approx(1.5**2)


def test_target_kl_ends_the_epochs():
    free, bound = (
        ppo("algo.epochs=8", "algo.lr=1e-2"),
        ppo("algo.epochs=8", "algo.lr=1e-2", "algo.target_kl=1e-6"),
    )
    learn_once(free)
    learn_once(bound)
    assert free.clock.updates == 8 * 4
    assert bound.clock.updates == 4


def test_a_value_lr_of_its_own_moves_the_value_network_alone():
    parts = ppo("algo.lr=0", "algo.value_lr=1e-3")
    before = {name: p.detach().clone() for name, p in parts.agent.networks.named_parameters()}
    learn_once(parts)
    moved = {
        name.split(".")[0]
        for name, p in parts.agent.networks.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert moved == {"value"}


@pytest.mark.parametrize("optimizer", ["rl.optimizers.RMSprop", "torch.optim.AdamW", "torch.optim.RMSprop"])
def test_other_optimizers_by_name(optimizer):
    parts = ppo(f"algo.optimizer._target_={optimizer}")
    before = parts.agent.step.flats[0].detach().clone()
    learn_once(parts)
    assert not torch.equal(parts.agent.step.flats[0], before)


def test_a_shared_network_gives_policy_and_values_alike_in_numpy_and_torch():
    parts = ppo("algo.shared_network=true", "env=pendulum")
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    params, value = parts.agent.networks(torch.from_numpy(obs))
    np.testing.assert_allclose(parts.agent.policy_params(obs), params.detach(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts.agent.value(obs), value.detach(), rtol=1e-4, atol=1e-6)
    # the policy begins nearly without preference
    assert float(params[:, 0].abs().max()) < 0.2 * float(value.abs().max())
    learn_once(parts)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "algo.minibatch_size=100",
            "algo.minibatch_size=100 does not divide rollout_length * num_envs = 1024; try 128",
        ),
        ("algo.minibatch_size=1", "algo.minibatch_size=1 has no spread"),
        ("algo.optimizer.eps=0", "algo.optimizer.eps=0: expected a number above 0"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_type(override, message):
    with pytest.raises(ConfigError, match=message.replace("*", r"\*")):
        ppo("env.num_envs=8", "algo.rollout_length=128", override)


def test_a_value_lr_on_a_shared_network_is_refused():
    with pytest.raises(ConfigError, match="algo.shared_network=false"):
        ppo("algo.shared_network=true", "algo.value_lr=1e-3")


@pytest.mark.parametrize("key", ["lr", "value_lr", "clip_range", "value_clip_range", "entropy_coef"])
def test_the_future_of_a_schedule_may_change_and_its_past_may_not(key):
    def values(knots):
        return compose(["algo=ppo", f"algo.{key}={knots}"], RunConfig).values

    run = values("[[0, 0.2], [100k, 0.1]]")
    assert not any(
        change.refused for change in compare(run, values("[[0, 0.2], [100k, 0.1], [200k, 0]]"), 100_000)
    )
    assert any(change.refused for change in compare(run, values("[[0, 0.2], [200k, 0.1]]"), 100_000))
    cosine = values("{kind: cosine, from: 0.2, to: 0.1, frames: 100k}")
    assert [change.refused for change in compare(run, cosine, 50_000)] == [True]


# ------------------------------------------------------------------------------------------- a shared network


@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
def test_what_a_shared_network_gave_while_acting_is_what_it_gives_for_the_rollout(env):
    parts = ppo(f"env={env}", "env.num_envs=2", "algo.shared_network=true", "algo.normalize_obs=true")
    agent, collector = parts.agent, parts.collector
    collector.start()
    agent.act(collector.rollout.obs[-1], None, parts.streams.action)  # of another time
    rollout = collector.collect(agent)
    from_acting, _ = agent._batch(rollout)
    rollout.extras.clear()
    afterwards, _ = agent._batch(rollout)
    torch.testing.assert_close(from_acting.steps, afterwards.steps, rtol=1e-5, atol=1e-5)


def test_separate_networks_keep_nothing_while_acting():
    parts = ppo()
    parts.collector.start()
    parts.collector.collect(parts.agent)
    assert not parts.collector.rollout.extras
