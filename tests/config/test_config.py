"""conf/, the schema, the constructors and the help agree."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from short_runs import PAIRS, to_compose

from rl.config import (
    TARGETS,
    ConfigError,
    EnjoyConfig,
    ExportConfig,
    ReportConfig,
    RunConfig,
    SearchConfig,
    fields,
    overrides,
)
from rl.config.compose import CONF, compose, options
from rl.config.help import POLICIES, show_help
from rl.config.instantiate import locate
from rl.config.overrides import GROUPS, Overrides, quote
from rl.config.schedule import Schedule
from rl.runs.plan import make_plan

PARTS_TOLD = {
    "told",
    "setting",
    "self",
    "obs_shape",
    "num_outputs",
    "out_gain",
    "params",
    "members",
    "env",
}  # arguments that code gives, not conf/


def keys(schema: type, path: str = "") -> list[str]:
    found = []
    for name, (kind, key) in fields(schema).items():
        found += (
            [path + name]
            if key is not None
            else keys(kind, f"{path}{name}.")
            if hasattr(kind, "__dataclass_fields__")
            else []
        )
    return found


def shown(script: str, *overrides: str) -> dict[str, list[str]]:
    """The keys of a help text, each with its words: its value and its meaning."""
    text = show_help(script, overrides)
    lines = [
        line.split() for line in text[text.lower().index("\nkeys") :].splitlines() if line.startswith("  ")
    ]
    return {words[0]: words[1:] for words in lines if len(words) > 2}


def test_every_key_is_in_the_help_with_its_value_and_meaning() -> None:
    of_atari = {"env.game", "env.deepmind", "env.clip_rewards"}
    assert set(keys(RunConfig)) - of_atari <= shown("train.py").keys()
    assert of_atari <= shown("train.py", "env=pong").keys()
    for script, schema in (
        ("enjoy.py", EnjoyConfig),
        ("rl.export", ExportConfig),
        ("rl.search", SearchConfig),
        ("rl.report", ReportConfig),
    ):
        assert set(keys(schema)) <= shown(script).keys()
    text = show_help("train.py")
    for group in ("algo", "env", "logger", "launcher", "experiment"):
        for choice, meaning in options(group).items():
            assert f"{choice} " in text
            assert meaning, f"{group}/{choice}.yaml begins without a comment"


@pytest.mark.parametrize("algo", options("algo"))
def test_help_shows_what_belongs_to_an_algorithm_and_no_more(algo: str) -> None:
    composed = compose([f"algo={algo}"], RunConfig)
    own = {
        f"algo.{name}" for name in keys(TARGETS[composed.values["algo"]["_target_"]]) if name != "_target_"
    }
    help_keys = {name for name in shown("train.py", f"algo={algo}") if name.startswith("algo.")}
    assert own & {f"algo.{name}" for name in composed.values["algo"]} <= help_keys
    assert {name for name in help_keys if name.count(".") == 1} <= own


def test_help_shows_the_values_of_its_command_line() -> None:
    assert shown("train.py", "algo=ppo", "seed=7")["seed"][0] == "7"
    assert shown("train.py", "algo=ppo")["algo.clip_range"][0] == "0.2"
    assert shown("train.py", "env=gym")["env.id"][0] == "..."
    assert "logger.wandb.project" in shown("train.py", "logger=wandb")
    text = show_help("train.py")
    for policy in POLICIES.values():
        assert text.count(policy) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_schema_keys_are_the_constructors_keywords(target: str) -> None:
    # by the algorithm
    given = {"rl.optimizers": {"lr"}, "rl.networks": {"quantiles"}, "rl.pixels": {"quantiles"}}
    told = PARTS_TOLD | given.get(target.rpartition(".")[0], set())
    named = getattr(
        locate(target), "Config", None
    )  # an algorithm's keys are fields; other parts' are keywords
    if named is None:
        keywords = set(inspect.signature(locate(target)).parameters) - told
        assert set(fields(TARGETS[target])) - {"_target_"} == keywords
    else:
        assert named is TARGETS[target]
    assert all(key is None or key.help for _, key in fields(TARGETS[target]).values())


@pytest.mark.parametrize(("algo", "env"), PAIRS)
def test_every_algo_and_every_env_composes(algo: str, env: str) -> None:
    composed = compose([f"algo={algo}", *to_compose(env)], RunConfig)
    assert set(composed.values["algo"]) == set(fields(TARGETS[composed.values["algo"]["_target_"]]))
    assert composed.config.frames == composed.config.env.frames
    assert composed.choices == {
        group: {"algo": algo, "env": env}.get(group, composed.choices[group]) for group in GROUPS
    }


def test_the_experiment_of_the_tutorial_is_the_default() -> None:
    experiment, default = compose(["experiment=reinforce_cartpole"], RunConfig), compose([], RunConfig)
    assert experiment.values == {**default.values, "frames": experiment.values["frames"]}
    assert (experiment.config.frames, experiment.choices["experiment"]) == (
        default.config.frames,
        "reinforce_cartpole",
    )


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_no_shipped_schedule_is_tied_to_frames(path: Path) -> None:
    assert "${frames}" not in path.read_text()


def test_every_experiment_composes() -> None:
    for name in options("experiment"):
        compose([f"experiment={name}"], RunConfig)


def test_an_override_of_a_schedule_replaces_it() -> None:
    assert compose(["algo.lr=[[0,1e-3],[1M,0]]"], RunConfig).config.algo.lr(500_000) == 5e-4
    assert (
        compose(
            ["algo.entropy_coef={kind: cosine, from: 1, to: 0, frames: 10}"], RunConfig
        ).config.algo.entropy_coef(10)
        == 0.0
    )
    assert isinstance(compose(["algo.entropy_coef=0.5"], RunConfig).config.algo.entropy_coef, Schedule)


@pytest.mark.parametrize(
    ("algo", "override", "value"),
    [
        ("ppo", "algo.optimizer.weight_decay=0.01", 0.01),
        ("ppo", "+algo.optimizer.weight_decay=0.01", 0.01),
        ("reinforce", "algo.optimizer.weight_decay=0.01", 0.01),  # torch's, which no schema knows
        ("dqn_pong", "algo.network.channels=[4,8,8]", [4, 8, 8]),
        ("dqn", "algo.network.channels=[4,8,8]", "algo.network.channels: no such key"),
        ("ppo", "algo.optimizer.weigth_decay=1", "did you mean algo.optimizer.weight_decay?"),
        ("ppo", "algo.replay.capacity=1k", "algo.replay: no such key"),
    ],
)
def test_a_part_takes_keys_that_yaml_does_not_name(algo: str, override: str, value: object) -> None:
    chosen = [f"experiment={algo}"] if "_" in algo else [f"algo={algo}"]
    if isinstance(value, str):
        with pytest.raises(ConfigError, match=re.escape(value)):
            compose([*chosen, override], RunConfig)
        return
    composed = compose([*chosen, override], RunConfig)
    _, part, name = override.partition("=")[0].split(".")
    assert composed.values["algo"][part][name] == value


def test_counts_and_interpolations_are_read() -> None:
    config = compose(
        ["env.frames=1.5M", "log_every=10_000", "eval.every=null", "ckpt.every=1e5"], RunConfig
    ).config
    assert (config.frames, config.log_every, config.eval.every, config.ckpt.every) == (
        1_500_000,
        10_000,
        None,
        100_000,
    )


def test_of_overrides_for_one_key_the_last_counts() -> None:
    merged = Overrides(["a=1", "b.c=2"]).merge(["a=3", "+d=4"]).merge(["a=5"])
    assert merged.texts == ["b.c=2", "+d=4", "a=5"]
    assert Overrides(["seed=1", "seed=2"]).get("seed") == "2"


def test_overrides_are_asked_and_filtered_by_key() -> None:
    line = Overrides(["hydra.run.dir=x", "a=1", "hydra.job.name=y", "b='x y'", "c=null", "algo=ppo", "d=1,2"])
    assert line.drop("hydra.", "b", "c", "d").texts == ["a=1", "algo=ppo"]
    assert line.hydra.keys == ["hydra.run.dir", "hydra.job.name"]
    assert line.swept.texts == ["d=1,2"]
    assert line.groups.keys == ["hydra.run.dir", "hydra.job.name", "algo"]
    assert (line.get("b"), line.get("c"), line.get("e")) == ("x y", None, None)


def test_a_section_set_anew_replaces_the_overrides_below_it() -> None:
    assert Overrides(["a.b=1", "ab=1"]).merge(["a={c: 2}"]).texts == ["ab=1", "a={c: 2}"]
    assert Overrides(["algo.lr=1"]).merge(["algo=ppo"]).texts == ["algo.lr=1", "algo=ppo"]


def test_a_folder_with_special_characters_needs_no_quotes() -> None:
    assert Overrides(["resume=outputs/a=1,b=2"]).get("resume") == "outputs/a=1,b=2"


def test_a_command_line_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    original = overrides._parse
    monkeypatch.setattr(overrides, "_parse", lambda text: parsed.append(text) or original(text))
    make_plan(["seed=1", "frames=1k", "algo=a2c"])
    assert parsed == ["seed=1", "frames=1k", "algo=a2c"]


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "with space",
        "it's",
        'a"b',
        "a,b=c{d}[e]",
        "back\\slash",
        "${frames}",
        "ü",
        "%41",
        "~x@y:z",
        "end'",
        "'",
        "\\",
        "\\'",
        "a\\\\b\\",
        "",
    ],
)
def test_a_quoted_value_is_read_as_it_is(text: str) -> None:
    if "${" not in text:
        assert compose([f"outputs={quote(text)}"], RunConfig).values["outputs"] == text
    quoted = Overrides([f"outputs={quote(text)}"])
    assert quoted.get("outputs") == text
    assert quoted.for_hydra() == [f"outputs={quote(text)}"]


# -------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("algo.gama=0.9", "algo.gama: no such key; did you mean algo.gamma?"),
        ("lr=0.1", "lr: no such key; did you mean algo.lr?"),
        ("ckpt.evry=1", "ckpt.evry: no such key; did you mean ckpt.every?"),
        ("+foo=1", "foo: no such key"),
        ("+algo.gama=1", "algo.gama: no such key; did you mean algo.gamma?"),
        ("++algo.network.hiden=[1]", "algo.network.hiden: no such key; did you mean algo.network.hidden?"),
        ("~algo.gamma", "algo.gamma: missing"),
        ("algo=ppoo", "algo=ppoo: no such algo"),
        ("env=cartpol", "env=cartpol: no such env; did you mean cartpole?"),
        ("experiment=nothing_like_it", "experiment=nothing_like_it: no such experiment"),
        ("env=gym", "env.id: missing; type env.id=..."),
        ("env=atari", "env.game: missing; type env.game=..."),
        ("algo=null", "algo=null: no such algo"),
        ("experiment=null", "experiment=null: no such experiment"),
        ("algo=3", "algo=3: no such algo"),
        ("algo=[random,reinforce]", "no such algo"),
        ("frames=ten", "frames=ten: expected a whole count such as 20M"),
        ("frames=1.5", "frames=1.5: expected a whole count"),
        ("frames=0", "frames=0: expected"),
        ("frames=-5", "frames=-5: expected"),
        ("seed=-1", "seed=-1: expected a whole number from 0"),
        ("seed=1.5", "seed=1.5: expected a whole number"),
        ("seed=true", "seed=true: expected a whole number"),
        ("algo.gamma=1.1", "algo.gamma=1.1: expected a number from 0 to 1"),
        ("algo.gamma=high", "algo.gamma=high: expected a number"),
        ("algo.gamma=nan", "algo.gamma=nan: expected a number"),
        ("algo.gamma=null", "algo.gamma=null: expected a number"),
        ("algo.baseline=1", "algo.baseline=1: expected true or false"),
        ("algo.max_grad_norm=0", "algo.max_grad_norm=0: expected a number above 0"),
        ("algo.lr=-1", "algo.lr=-1"),
        ("algo.lr=fast", "algo.lr=fast: expected a number, knots such as"),
        ("algo.lr=[[10,1],[0,0]]", "expected the knots in the order of their frames"),
        ("algo.network.hidden=64", "algo.network.hidden=64: expected a list"),
        ("algo.network.hidden=[64,x]", "algo.network.hidden[1]=x: expected a whole number"),
        ("algo.network.activation=thanh", "did you mean algo.network.activation=tanh?"),
        ("algo.network._target_=rl.networks.MPL", "did you mean rl.networks.MLP?"),
        ("device=gpu", "device=gpu: expected one of cpu, cuda"),
        ("env.num_envs=0", "env.num_envs=0: expected a whole number from 1"),
        ("ckpt.minutes=0", "ckpt.minutes=0: expected a number above 0"),
        ("eval=null", "eval=null: expected the keys every, episodes"),
        ("env.wrappers=[1]", "env.wrappers[0]=1: expected a _target_"),
        ("frames", "frames: not an override; write key=value"),
        ("algo={", "not an override; write key=value"),
        ("=3", "not an override; write key=value"),
        ("outputs=${nowhere}", "nowhere"),
    ],
)
def test_an_impossible_command_line_says_what_is_wrong(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([override], RunConfig)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["seed=x", "algo.gamma=7", "frames=no"], RunConfig)
    assert len(str(caught.value).splitlines()) == 3
