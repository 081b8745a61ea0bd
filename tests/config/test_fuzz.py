"""Command lines and YAML files that nobody would type: each is read, or refused in one message, and makes
nothing.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl.config import ConfigError, RunConfig, compare, read_config
from rl.config.compose import Composed, compose, options
from rl.config.overrides import Overrides, quote
from rl.runs.manifest import DamagedError
from rl.runs.outcome import Refused
from rl.runs.plan import make_plan

fuzz = functools.partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=True,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = [
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63),
    10**30,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
]
COUNTS = [
    "1e99",
    "-5k",
    "1.5",
    "20M",
    "1e-3k",
    "1_0",
    "_",
    "9" * 400,
    "0x10",
    "nan",
    "inf",
    "1e400",
    "١٢",
    "1e9999999",
    "k",
]  # noqa: RUF001
WORDS = [
    "",
    " ",
    "null",
    "true",
    "~",
    "${frames}",
    "${",
    "${oc.env:HOME}",
    "${algo}",
    "???",
    "a=b",
    "a,b",
    "[",
    "{",
    "'",
    "\\",
    "\t",
    "é",
    "💥",
    "\x00",
]
SCHEDULES = [
    [[0, 1]],
    [[0, "x"]],
    [[1, 2, 3]],
    [[5, 1], [0, 1]],
    {"kind": "cosine"},
    {"kind": "linear", "from": 1, "to": float("inf"), "frames": 0},
]
SCALARS = st.one_of(
    st.sampled_from([*NUMBERS, *COUNTS, *WORDS, None, True, False]),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
)
VALUES = st.one_of(
    SCALARS,
    st.sampled_from(SCHEDULES),
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=5), SCALARS, max_size=3),
)
ALGOS = list(options("algo"))


def refusal(action: Callable[[], object]) -> str:
    """The message with which it is refused, or ''; any other exception is a failure."""
    try:
        action()
    except (ConfigError, Refused, DamagedError) as error:
        return str(error).strip() or "an empty message"
    return ""


@functools.cache
def composed(algo: str) -> Composed:
    return compose([f"algo={algo}", "env=cartpole"], RunConfig)


def spoilt(values: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The values with another at a dotted name."""
    result = copy.deepcopy(values)
    *path, last = name.split(".")
    section = result
    for part in path:
        section = section[part]
    section[last] = value
    return result


def sections(values: dict[str, Any], path: str = "") -> list[str]:
    names = [f"{path}{name}" for name in values]
    return names + [
        deeper
        for name, value in values.items()
        if isinstance(value, dict)
        for deeper in sections(value, f"{path}{name}.")
    ]


@fuzz(max_examples=700)
@given(st.sampled_from(ALGOS), st.data(), VALUES)
def test_a_value_is_read_or_refused_by_its_key(algo: str, data: st.DataObject, value: Any) -> None:
    values = composed(algo).values
    name = data.draw(st.sampled_from(sections(values)))
    changed = spoilt(values, name, value)
    message = refusal(lambda: read_config(changed, RunConfig))
    if message:
        assert message.startswith(name.split(".")[0])
    else:
        assert isinstance(compare(values, changed, 1000), list)


@fuzz(max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.tuples(st.sampled_from([*WORDS, "seed", "+algo.lr", "~env", "fork"]), st.text(max_size=8)).map(
                "=".join
            ),
        ),
        max_size=3,
    )
)
def test_any_words_are_overrides_or_refused(words: list[str]) -> None:
    def read() -> None:
        overrides = Overrides(words)
        overrides.drop("seed", "algo.").merge(["seed=1"]).for_hydra()
        overrides.get("fork")

    assert refusal(read) != "an empty message"


KEYS = [
    "frames",
    "seed",
    "device",
    "env.num_envs",
    "env.kwargs.x",
    "algo.lr",
    "algo.gamma",
    "algo.network.hidden",
    "ckpt.every",
    "eval.every",
]
KEYS += [
    "callbacks",
    "outputs",
    "resume",
    "fork",
    "base",
    "hydra.run.dir",
    "algo",
    "env",
    "experiment",
    "debug",
    "local",
    "launcher",
    "hydra",
]
KEYS += [
    "+new",
    "++algo.lr",
    "~algo.lr",
    "~env",
    "+algo",
    "algo@env",
    "hydra.job.name",
    "env.wrappers",
    "algo._target_",
    "stop_at",
]


def line(key: str, value: Any) -> str:
    if isinstance(value, str):
        return f"{key}={value}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return f"{key}={text.strip().removesuffix('...').strip()}"


@fuzz(max_examples=40)
@given(st.lists(st.builds(line, st.sampled_from(KEYS), VALUES), min_size=1, max_size=2))
def test_any_command_line_is_planned_or_refused_without_a_folder(words: list[str]) -> None:
    before = set(Path.cwd().iterdir())
    assert refusal(lambda: make_plan(words)) != "an empty message"
    assert set(Path.cwd().iterdir()) == before


YAMLS = st.one_of(
    st.text(max_size=30),
    st.dictionaries(
        st.one_of(SCALARS, st.sampled_from(["frames", "algo", "env", "defaults", "hydra", "seed"])),
        VALUES,
        max_size=3,
    ).map(lambda value: yaml.safe_dump(value, allow_unicode=True)),
    st.sampled_from(
        [
            "seed: ${frames}\nframes: ${seed}",
            "algo:\n  lr: ${algo.lr}",
            "a: &a [*a]",
            "x: &x {<<: *x}",
            "seed: 1\nseed: 2",
            "\t- x",
            "defaults: 3",
        ]
        + [
            "defaults:\n  - nothing",
            "defaults:\n  - override /algo: nothing",
            "defaults:\n  - experiment: x",
            "%YAML 9",
            "!!python/object:os.system x",
        ]
        + [
            "seed: !!float x",
            "? [a]\n: b",
            "frames: 1\n---\nframes: 2",
            "seed: ${oc.env:NOTHING}",
            "seed: ${now:}",
            "seed: ${no:}",
            "- 1",
            "3",
            "null",
        ]
    ),
)


@fuzz(max_examples=40)
@given(YAMLS, st.booleans())
def test_a_yaml_file_is_read_or_refused_in_one_message(text: str, package: bool) -> None:
    folder = Path("own/experiment")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.yaml").write_bytes(
        ("# @package _global_\n" * package + text).encode("utf-8", "surrogatepass")
    )
    assert refusal(lambda: compose(["experiment=x"], RunConfig, config_dir="own")) != "an empty message"


@fuzz(max_examples=300)
@given(st.text(max_size=12))
def test_a_quoted_word_comes_back_as_it_was(text: str) -> None:
    if re.fullmatch(r"[^\x00-\x1f]*", text):
        assert Overrides([f"fork={quote(text)}"]).get("fork") == text


def test_the_real_command_line_says_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    from rl.runs.outcome import with_exit_codes

    for words in (
        ["frames=nan"],
        ["algo.lr=inf"],
        ["env=💥"],
        ["seed=${seed}"],
        ["algo.gamma=${algo.gamma}"],
        ["env.num_envs=1e99"],
    ):
        with pytest.raises(SystemExit) as stop:
            with_exit_codes(functools.partial(make_plan, words))
        assert stop.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1, words
