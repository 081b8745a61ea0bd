"""A user's own class: typed by its `Config` like a built-in one, or with plain keywords."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import DIED, die_at
from short_runs import TINY, differences, go, in_child, record

from rl.config import ConfigError, RunConfig
from rl.config.compose import compose
from rl.config.schema import TARGETS, schema_of

PPO = [*TINY, "algo=ppo", "algo.minibatch_size=64", "algo.epochs=2"]
INHERITS = [*PPO, "algo._target_=user_agents.Inherits"]
OWN = [*PPO, "algo._target_=user_agents.Own", "+algo.bonus=0.5", "+algo.window=2k"]
PLAIN = [*(word for word in TINY if not word.startswith("algo.")), "algo=plain"]
CASES = {"inherits": INHERITS, "own": OWN, "plain": PLAIN}


def overrides_of(name: str) -> list[str]:
    if name == "plain":
        Path("conf/algo").mkdir(parents=True, exist_ok=True)
        Path("conf/algo/plain.yaml").write_text(
            "# plain\n_target_: user_agents.Plain\nrollout_length: 32\nlr: 0.1\n"
        )
    return CASES[name]


@pytest.mark.usefixtures("few_scores")
@pytest.mark.parametrize("name", CASES)
def test_a_users_agent_resumes_exactly(name: str) -> None:
    line = overrides_of(name)
    conf = str(Path("conf").absolute()) if name == "plain" else None
    assert go(Path("straight"), *line, config_dir=conf) == 0

    def killed() -> int:
        die_at(60)  # at the 60th call that changes a file
        return go(Path("run"), *line, config_dir=conf)

    assert in_child(killed) == DIED
    assert go(Path("run"), *line, config_dir=conf) == 0
    assert differences(record(Path("straight")), record(Path("run"))) == []


@pytest.mark.usefixtures("few_scores")
@pytest.mark.parametrize(
    ("name", "changed", "code"),
    [
        ("inherits", "algo.lr=[[0,3e-4],[640,3e-4],[2k,0]]", 0),  # a knot in the future
        ("inherits", "algo.lr=1e-3", 2),  # another past
        ("inherits", "algo.gamma=0.5", 2),
        ("own", "+algo.bonus=[[0,0.5],[640,0.5],[2k,0]]", 0),
        ("own", "+algo.bonus=0.25", 2),
        ("own", "+algo.window=3k", 0),
        ("plain", "algo.lr=0.2", 2),
        ("plain", "algo.lr=[[0,0.1],[640,0.1],[2k,0]]", 2),  # all its keys are frozen
    ],
)
def test_its_policies_hold_on_a_resume(name: str, changed: str, code: int) -> None:
    line = overrides_of(name)
    conf = str(Path("conf").absolute()) if name == "plain" else None
    assert go(Path("run"), *line, config_dir=conf) == 0
    key = changed.partition("=")[0]
    kept = [word for word in line if not word.startswith(f"{key}=")]
    assert go(Path("run"), *kept, changed, "frames=1280", config_dir=conf) == code


def test_its_keys_are_typed_and_bounded() -> None:
    config = compose(OWN, RunConfig).config
    assert (config.algo.window, config.algo.bonus(0)) == (2000, 0.5)
    with pytest.raises(ConfigError, match=r"algo\.bonus=-1"):
        compose([*OWN[:-2], "+algo.bonus=-1", "+algo.window=2k"], RunConfig)
    with pytest.raises(ConfigError, match=r"algo\.bonus: missing"):
        compose(OWN[:-2], RunConfig)


def test_keys_of_a_class_that_cannot_be_imported_are_unknown() -> None:
    assert schema_of("no_such_module.Agent") is None
    assert schema_of("user_agents.Plain") is None
    assert schema_of("user_agents.Inherits") is TARGETS["rl.algos.ppo.PPO"]
