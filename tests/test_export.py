"""rl.export: a policy in a file of its own plays as the run's does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from short_runs import ROOT, TINY, begun, go, iterate
from test_docs import _FILE
from test_state import SMALL_CNN, TRAITS, line_for

from rl import api
from rl.algos.dqn import DQN
from rl.config import ConfigError, ExportConfig
from rl.config.compose import compose, options
from rl.export import SUFFIXES, export, read
from rl.runs.manifest import DamagedError
from rl.runs.outcome import Refused
from rl.training.evaluate import play

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")


class TwoChoices(gym.Env):
    """Two choices at a time, counted from 1 and from 0."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float64)
        self.action_space = gym.spaces.MultiDiscrete([2, 3], start=[1, 0])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return self.np_random.uniform(-1, 1, 3), 1.0, bool(self.np_random.random() < 0.1), False, {}


gym.register("TwoChoices-v0", TwoChoices)
RUNS = {
    **{trait: line_for(trait) for trait in TRAITS if trait not in ("random", "async")},
    "recurrent, continuous": [*TINY, *TRAITS["recurrent ppo"], "env=pendulum"],
    "two choices": [*TINY, "env=gym", "env.id=test_export:TwoChoices-v0"],
    "rainbow on images": [*TINY, *TRAITS["rainbow"], "env=breakout", *SMALL_CNN]
    + ["algo.network._target_=rl.pixels.NoisyDuelingNatureCNN"],
}


def trained(name: str) -> Path:
    """Three iterations and a checkpoint; no evaluation, which with games would take minutes."""
    run = begun(Path("run"), *RUNS[name])
    iterate(run, 3)
    run.save()
    run.collector.envs.close()
    return Path("run")


def exported(folder: Path, *overrides: str) -> Path:
    return export(compose([f"run={folder}", *overrides], ExportConfig, "export").config)


def caller(path: Path) -> Callable[..., list[NDArray[Any]]]:
    """The file's function, by what plays it anywhere: obs and state -> action and state."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path.read_bytes())
        names = [node.name for node in session.get_inputs()]
        return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))
    module = torch.export.load(path).module()

    def call(*inputs: NDArray[Any]) -> list[NDArray[Any]]:
        outputs = module(*map(torch.from_numpy, inputs))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else [outputs])]

    return call


class Player:
    """An exported policy as an agent that can be evaluated."""

    def __init__(self, path: Path, policy: api.Policy) -> None:
        self.call, self.initial_state = caller(path), policy.agent.initial_state

    def act(self, obs: Any, state: Any, rng: Any, explore: bool) -> tuple[Any, Any]:
        action, *after = self.call(obs, *([] if state is None else [state]))
        return action, (after[0] if after else None)


def drawn(policy: api.Policy, count: int) -> NDArray[Any]:
    """Observations that need not occur in the environment."""
    rng, shape = np.random.default_rng(1), (count, *(policy.obs_space.shape or ()))
    if policy.obs_space.dtype == np.uint8:
        return rng.integers(256, size=shape, dtype=np.uint8)
    return rng.standard_normal(shape, np.float32) * 3


def test_every_algorithm_has_a_run_here() -> None:
    algos = {override.removeprefix("algo=") for line in RUNS.values() for override in line}
    assert set(options("algo")) - {"random", "reinforce"} <= algos


@pytest.mark.parametrize("name", RUNS)
def test_an_exported_policy_acts_and_scores_as_the_run(name: str) -> None:
    folder, games = trained(name), 20
    cap = 40 if "breakout" in " ".join(RUNS[name]) else None  # steps of a game
    policy = api.load_policy(folder, "last")
    discrete = not isinstance(policy.action_space, gym.spaces.Box)
    obs = drawn(policy, 1000)
    expected = policy(obs)
    own: Any = play(policy.agent, policy.make_env, games, 0, max_steps=cap)
    for how in SUFFIXES:
        path = exported(folder, "ckpt=last", f"format={how}")
        player = Player(path, policy)
        action, _ = player.act(obs, policy.agent.initial_state(len(obs)), None, False)
        assert action.shape == expected.shape
        assert np.abs(action - expected).max() <= (0 if discrete else 1e-5)
        played: Any = play(player, policy.make_env, games, 0, max_steps=cap)  # type: ignore[arg-type]
        assert played.returns == (own.returns if discrete else pytest.approx(own.returns, rel=1e-4))


@pytest.mark.parametrize(("how", "script"), [("onnx", "play_onnx.py"), ("torch", "play_torch.py")])
@pytest.mark.parametrize("name", ["dqn", "recurrent, continuous"])
def test_the_page_plays_a_file_without_encore(name: str, how: str, script: str, tmp_path: Path) -> None:
    folder = trained(name)
    path = exported(folder, "ckpt=last", f"format={how}", f"out=policy{SUFFIXES[how]}")
    page = (ROOT / "docs" / "export.md").read_text()
    # an empty folder named rl: what the script does, it does without Encore
    (tmp_path / "rl").mkdir()
    (tmp_path / "rl" / "__init__.py").write_text("raise ImportError('Encore is not installed here')\n")
    (tmp_path / script).write_text(dict(_FILE.findall(page))[script])
    run = subprocess.run(
        [sys.executable, script, str(path)], capture_output=True, text=True, check=False, timeout=200
    )
    assert run.returncode == 0, run.stderr
    policy, returns = api.load_policy(folder, "last"), []
    env = policy.make_env()
    for episode in range(5):
        (obs, _), total, done = env.reset(seed=episode), 0.0, False
        policy.reset()
        while not done:
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    printed = [float(line.rpartition(" ")[2]) for line in run.stdout.splitlines()]
    assert printed == pytest.approx(returns, rel=1e-4, abs=0.02)


@pytest.mark.parametrize("how", SUFFIXES)
def test_a_damaged_or_foreign_file_is_refused(how: str) -> None:
    path = exported(trained("dqn"), "ckpt=last", f"format={how}")
    data, rng = path.read_bytes(), np.random.default_rng(0)
    assert read(data).metadata["frames"] == 192
    for position in rng.integers(len(data), size=100):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(Refused, match="damaged, or not of rl.export"):
            read(bytes(damaged))
    for foreign in (b"", b"text", data[:-1], data[:1000], data[:-64]):
        with pytest.raises(Refused, match="damaged, or not of rl.export"):
            read(foreign)


def test_a_file_says_what_it_holds() -> None:
    path = exported(trained("recurrent, continuous"), "ckpt=last")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert str(ROOT).encode() not in path.read_bytes()
    about = read(path.read_bytes()).metadata
    assert json.loads(model.metadata_props[0].value) == about
    assert about["env"] == {"id": "Pendulum-v1", "kwargs": {}, "wrappers": []}
    assert about["action_space"] == {
        "type": "Box",
        "shape": [1],
        "dtype": "float32",
        "low": -2.0,
        "high": 2.0,
    }
    assert about["observation_space"]["high"] == [1.0, 1.0, 8.0]
    assert (about["run"], about["frames"], about["score"], about["state_size"]) == ("run", 192, None, 64)
    assert [node.name for node in model.graph.input] == ["obs", "state"]
    assert [node.name for node in model.graph.output] == ["action", "next_state"]


def test_a_policy_that_differs_from_the_run_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained("dqn")
    greedy = DQN.greedy

    def other(self: DQN) -> torch.nn.Module:
        module = greedy(self)
        best = module.best
        module.best = lambda outputs: best(-outputs)  # type: ignore[assignment]
        return module

    monkeypatch.setattr(DQN, "greedy", other)
    with pytest.raises(Refused, match="nothing is written"):
        exported(folder, "ckpt=last")
    assert not (folder / "export").exists()


def test_what_cannot_be_exported_is_refused_in_one_message() -> None:
    folder = trained("dqn")
    with pytest.raises(ConfigError, match=r"ends in \.onnx"):
        exported(folder, "ckpt=last", "out=policy.pt2")
    with pytest.raises(Refused, match="not been evaluated yet"):
        exported(folder)
    with pytest.raises(Refused, match="no whole checkpoint"):
        exported(Path("elsewhere"))
    data = folder / "ckpt" / "ckpt-192.pt"
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedError, match=r"ckpt-192\.pt: its content is not what was written"):
        exported(folder, "ckpt=192")


def test_random_actions_are_no_policy() -> None:
    assert go(Path("run"), "algo=random", "frames=512", "eval.episodes=1") == 0
    with pytest.raises(Refused, match="no method `greedy`"):
        exported(Path("run"), "ckpt=last", "format=torch")
