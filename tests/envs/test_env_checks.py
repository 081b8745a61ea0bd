"""What is found out about an environment before a run trains in it."""

from __future__ import annotations

import json
import logging
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_envs
import torch
from short_runs import TINY, begun, differences, go, record, to_compose

import rl.envs.checks
from rl.config import ConfigError, RunConfig
from rl.config.compose import compose, options
from rl.envs.checks import interface_warnings, reproducibility_problem
from rl.envs.make import check_env, make_factory
from rl.state import GlobalRandom
from rl.training.build import build_env_factory


def own(name: str) -> list[str]:
    return [*TINY, "env=gym", f"env.id=tiny_envs:{name}-v0"]


# -------------------------------------------------------------------------------------- the trial of a replay


@pytest.mark.parametrize(
    ("name", "own_process", "found"),
    [
        ("Identity", False, ""),
        ("Endless", False, ""),
        ("Bytes", False, ""),
        ("LuckyEnd", False, ""),  # the last step of an episode is never played again
        ("Forgetful", False, "another observation at its beginning"),
        ("Unseeded", False, "another observation"),
        ("Unseeded", True, "another observation"),
        ("GlobalDice", False, "another observation"),
        ("GlobalDice", True, ""),  # its worker seeds the global generators with every episode
    ],
)
def test_the_trial_finds_what_cannot_be_played_again(name: str, own_process: bool, found: str) -> None:
    problem = reproducibility_problem(
        make_factory(f"tiny_envs:{name}-v0", {}, []), 3, own_process=own_process
    )
    assert found in problem
    assert bool(found) == bool(problem)


def test_the_trial_finds_a_wrapper_without_complete_state() -> None:
    for forgetful in (True, False):
        factory = make_factory("CartPole-v1", {}, [lambda env, f=forgetful: tiny_envs.Centred(env, f)])
        assert bool(reproducibility_problem(factory, 0, own_process=False)) == forgetful


@pytest.mark.parametrize("name", ["BipedalWalker-v3", "BipedalWalkerHardcore-v3"])
def test_the_trial_finds_that_bipedal_walkers_world_goes_on(name: str) -> None:
    assert reproducibility_problem(make_factory(name, {}, []), 0, own_process=False, seconds=10)


def of_others() -> list[str]:
    """The entries of conf/env/ whose env comes with Gymnasium, and one of ale-py's games."""
    ids = {
        name: compose(to_compose(name), RunConfig).config.env.id for name in options("env") if name != "gym"
    }
    return [name for name, env_id in ids.items() if not env_id.startswith("rl.atari") or name == "pong"]


@pytest.mark.parametrize("name", of_others())
def test_shipped_envs_are_reproducible_and_solved_is_gymnasiums(name: str) -> None:
    config = compose([f"env={name}"], RunConfig).config.env
    assert (
        reproducibility_problem(build_env_factory(config), 0, own_process=config.vectorization == "async")
        == ""
    )
    threshold = gym.spec(config.id.rpartition(":")[2]).reward_threshold
    assert config.solved == (threshold or None)  # Pusher's is 0, and every return is below


def test_of_a_slow_env_one_step_is_tried() -> None:
    calls: list[str] = []

    class Slow(tiny_envs.Forgetful):
        def __init__(self) -> None:
            calls.append("made")
            super().__init__()

        def reset(self, **kwargs: Any) -> Any:
            calls.append("reset")
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            calls.append("step")
            return super().step(action)

    assert reproducibility_problem(lambda render_mode=None: Slow(), 0, own_process=False, seconds=1e-9)
    assert calls == ["made", "reset", "step", "reset", "step"]


def test_trial_and_checker_restore_the_global_generators() -> None:
    def draws_after(act: Callable[[], object]) -> list[float]:
        GlobalRandom().seed(1)
        act()
        return [random.random(), np.random.random(), float(torch.rand(()))]

    untouched = draws_after(lambda: None)
    assert (
        draws_after(
            lambda: reproducibility_problem(
                make_factory("tiny_envs:GlobalDice-v0", {}, []), 3, own_process=False
            )
        )
        == untouched
    )
    assert draws_after(lambda: interface_warnings(gym.make("tiny_envs:GlobalDice-v0"), 3)) == untouched


def test_the_trial_does_not_change_a_run(few_scores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    line = [*own("GlobalDice"), "frames=192", "eval.every=128"]
    assert go(Path("with"), *line) == 0
    monkeypatch.setattr(rl.envs.checks, "reproducibility_problem", lambda *args, **kwargs: "")
    assert go(Path("without"), *line) == 0
    assert differences(record(Path("with")), record(Path("without"))) == []


def test_findings_of_the_trial_are_logged_and_in_the_history(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.WARNING)
    begun(tmp_path / "run", *own("Unseeded"))
    assert (
        "A RESUME OF THIS RUN WILL NOT BE EXACT: an episode played again has another observation"
        in caplog.text
    )
    assert (
        "not be: an episode played again"
        in json.loads((tmp_path / "run" / "history.jsonl").read_text())["exactness"]
    )
    begun(tmp_path / "other", *own("Identity"))
    assert json.loads((tmp_path / "other" / "history.jsonl").read_text())["exactness"] == "exact"


# ---------------------------------------------------------------------------------------- Gymnasium's checker


def test_warnings_of_gymnasiums_checker_are_logged(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.WARNING)
    begun(tmp_path / "run", *own("Sloppy"))
    said = [record.message for record in caplog.records]
    what = "env.id=tiny_envs:Sloppy-v0: The obs returned by the `reset()` method"
    assert said.count(f"{what} was expecting numpy array dtype to be float32, actual type: float64") == 1
    assert said.count(f"{what} is not within the observation space.") == 1


def test_an_env_that_violates_the_api_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="OldFashioned-v0: .*old step API"):
        begun(tmp_path / "run", *own("OldFashioned"))
    assert not (tmp_path / "run").exists()


def test_an_error_in_an_envs_first_steps_names_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiny_envs.Identity, "_observe", lambda self: 1 + "")
    with pytest.raises(ValueError, match=rf"unsupported operand .*\({__file__}, line \d+\)"):
        interface_warnings(tiny_envs.Identity(), 0)


def test_only_what_others_wrote_is_checked() -> None:
    env = gym.make("CartPole-v1", disable_env_checker=True)
    env.unwrapped.observation_space = gym.spaces.Box(-1e-9, 1e-9, (4,), np.float32)
    assert interface_warnings(env, 0) == []
    assert interface_warnings(tiny_envs.Centred(env), 0) != []


# -------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("env", "module", "extra"),
    [
        ("env=lunar_lander", "Box2D", "box2d"),
        ("env=bipedal_walker", "Box2D", "box2d"),
        ("env=halfcheetah", "mujoco", "mujoco"),
        ("env=gym env.id=ale_py:ALE/Pong-v5", "ale_py", "atari"),
        ("env=gym env.id=ALE/Pong-v5", "ale_py", "atari"),
    ],
)
def test_a_missing_extra_is_refused_with_its_install_command(
    env: str,
    module: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in list(sys.modules):
        if name == module or name.startswith((f"{module}.", "gymnasium.envs.box2d", "gymnasium.envs.mujoco")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    for name in [name for name in gym.registry if name.startswith("ALE/")]:
        monkeypatch.delitem(gym.registry, name)
    assert go(tmp_path / "run", *TINY, *env.split()) == 2
    said = capsys.readouterr().err
    assert f'pip install -c constraints.txt -e ".[{extra}]"' in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("action", ["dict", "tuple"])
@pytest.mark.parametrize("algo", ["dqn", "sac"])
def test_an_unsupported_action_space_is_refused(action: str, algo: str, tmp_path: Path) -> None:
    line = own("Spaces")
    with pytest.raises(ConfigError, match="action space.*(Dict|Tuple)"):
        begun(tmp_path / "run", *line, f"algo={algo}", f"+env.kwargs.action={action}")


def test_a_wrapper_with_unsaveable_state_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="the state_dict of Unsaveable must be made of tensors"):
        check_env(tiny_envs.Unsaveable(gym.make("CartPole-v1")))


def test_a_normalizer_with_a_state_is_not_refused() -> None:
    check_env(tiny_envs.NormalizedAndSaved(gym.make("CartPole-v1")))
