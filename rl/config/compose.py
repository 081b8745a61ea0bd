"""Composing conf/ under a command line: plain values out, or one clear message that says what is wrong.

Nothing here touches a run's folder or imports torch; composing takes 50 ms.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rl.config import ConfigError, did_you_mean, read_config
from rl.config.invocation import flags
from rl.config.overrides import GROUPS, Overrides, trackers
from rl.config.shared import Base, drop_hydra, split

_ROOT = Path(__file__).resolve().parent.parent
CONF = _ROOT.parent / "conf" if (_ROOT.parent / "conf" / "config.yaml").is_file() else _ROOT / "conf"
_MEANT = {"joblib": "processes", "submitit": "slurm", "submitit_slurm": "slurm"}


@dataclass(frozen=True)
class Composed:
    """A configuration: plain values, the group choices behind them, and the same values typed."""

    values: dict[str, Any]
    choices: dict[str, str | None]
    config: Any
    run_dir: str  # where Hydra would put a new run
    sweep_dir: str  # and a new sweep
    multirun: bool = False  # whether a YAML file says hydra.mode: MULTIRUN
    sweep_params: tuple[str, ...] = ()  # the overrides of a sweep in hydra.sweeper.params


def compose(
    given: Iterable[str | Override],
    schema: type,
    config_name: str = "config",
    config_dir: str | None = None,
) -> Composed:
    """Today's conf/ under these overrides.

    ConfigError names what is wrong, what is allowed and the nearest name.
    """
    overrides = Overrides(given)
    overrides.check_single()
    config_name = flags().name or config_name
    if _bases is not None:
        others, single = split(overrides, [flags().path or str(CONF), *([config_dir] if config_dir else [])])
        key = (config_name, config_dir, flags(), *others.texts)
        if key not in _bases:
            _bases[key] = Base(_load(others, config_name, config_dir))
        with _bases[key].changed(single) as changed:
            if changed is not None:
                return _read(*changed, schema)
    return _read(_load(overrides, config_name, config_dir), None, schema)


@contextlib.contextmanager
def shared_compositions() -> Iterator[None]:
    """Within this context conf/ must not change: command lines that differ in plain values of single keys are
    composed once, and only these values are set anew.
    """
    global _bases
    before, _bases = _bases, {} if _bases is None else _bases
    try:
        yield
    finally:
        _bases = before


_bases: dict[Any, Base] | None = None


def _load(overrides: Overrides, config_name: str, config_dir: str | None) -> DictConfig:
    """The composed configuration, Hydra's own section included, nothing resolved yet."""
    with _hydra(config_dir):
        _check_groups(overrides, config_dir)
        try:
            return hydra.compose(config_name, overrides.for_hydra(), return_hydra_config=True)
        except Exception as error:  # Hydra and its loaders have a dozen kinds for a file that cannot be read
            raise ConfigError(_explain(error, overrides, config_name)) from error


def _read(whole: DictConfig, own: DictConfig | None, schema: type) -> Composed:
    """What a composition says. `own` is the same without Hydra's section; None: `whole` may lose it."""
    try:
        choices = OmegaConf.to_container(whole.hydra.runtime.choices)
        _check_hydra(whole.hydra)
        folders = str(whole.hydra.run.dir), str(whole.hydra.sweep.dir)
        params = whole.hydra.sweeper.get("params") or {}
        sweep = whole.hydra.mode == RunMode.MULTIRUN, tuple(f"{k}={v}" for k, v in params.items())
        if own is None:
            drop_hydra(own := whole)
        values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = error.full_key or "the configuration"
        missing = isinstance(error, MissingMandatoryValue)
        raise ConfigError(
            f"{key}: missing; type {key}=..." if missing else f"{key}: {str(error).splitlines()[0]}"
        ) from error
    assert isinstance(values, dict)
    assert isinstance(choices, dict)
    plain = {str(name): value for name, value in values.items()}
    return Composed(plain, {g: choices.get(g) for g in GROUPS}, read_config(plain, schema), *folders, *sweep)


@contextlib.contextmanager
def _hydra(config_dir: str | None) -> Iterator[None]:
    """Hydra's compose API on conf/ and the user's own folder."""
    search_path = create_config_search_path(flags().path or str(CONF))
    if config_dir:  # as Hydra itself adds it
        folder = f"file://{Path(config_dir).absolute()}"
        search_path.prepend("command-line", folder, anchor=SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    setbase("1.3")
    Hydra.create_main_hydra2(task_name="train", config_search_path=search_path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def _check_hydra(own: Any) -> None:
    """ConfigError for a key of Hydra's that we cannot do as it means it, typed or in a YAML file."""
    if own.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true: a run stays in the directory where it was typed, to which its paths are "
            "relative; leave it out"
        )
    launcher = own.runtime.choices.get("hydra/launcher")
    if launcher not in (None, "basic"):
        raise ConfigError(f"hydra/launcher={launcher} in a YAML file: write override /launcher: processes")


def options(group: str, config_dir: str | None = None) -> dict[str, str]:
    """The choices of a config group, each with the first comment line of its file."""
    found: dict[str, str] = {}
    for root in filter(None, [flags().path or str(CONF), config_dir]):
        for path in sorted((Path(root) / group).glob("*.yaml")):
            comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
            found[path.stem] = next((line for line in comments if not line.startswith("@package")), "")
    return found


def _check_groups(overrides: Overrides, config_dir: str | None) -> None:
    for override in overrides:
        group, given = override.key_or_group, override.value()
        if group in ("algo", "env") and override.is_delete():
            raise ConfigError(f"{override.input_line}: a run needs an {group}; type {group}=...")
        if group not in GROUPS or override.is_delete() or override.is_sweep_override():
            continue
        available = options(group, config_dir)
        for part in trackers(given) if group == "logger" else [given]:
            name = "null" if part is None else str(part)
            if name not in available:
                words = re.split(r"\W", name.lower())  # rl.algos.sac.SAC
                near = next((word for word in reversed(words) if word in available), name)
                hint = did_you_mean(near, list(available), _MEANT)
                raise ConfigError(f"{group}={name}: no such {group}{hint}")


def _explain(error: Exception, overrides: Overrides, config_name: str) -> str:
    """The one message for a composition that failed: mostly, a key that does not exist."""
    chosen = overrides.where(lambda o: o.key_or_group in GROUPS or "/" in o.key_or_group).texts
    with contextlib.suppress(Exception):
        base = hydra.compose(config_name, chosen, return_hydra_config=True)
        known = _names(OmegaConf.to_container(base, resolve=False))
        for override in overrides:
            name = override.key_or_group
            if not override.is_add() and (override.input_line or "") not in chosen and name not in known:
                return f"{name}: no such key{did_you_mean(name, known)}"
    if not isinstance(error, HydraException):
        return f"{' '.join(chosen) or 'conf/'}: {type(error).__name__}: {' '.join(str(error).split())}"
    return " ".join(str(part).splitlines()[0] for part in (error, error.__cause__) if str(part or ""))


def _names(values: Any, path: str = "") -> list[str]:
    """Dotted names of every section and leaf."""
    result = []
    for name, value in values.items() if isinstance(values, dict) else ():
        result += [f"{path}{name}", *_names(value, f"{path}{name}.")]
    return result


def to_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML, in the order they have."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def from_yaml(path: Path) -> dict[str, Any]:
    """What `to_yaml` wrote."""
    values = OmegaConf.to_container(OmegaConf.load(path))  # reads 1e-3 as a number, as Hydra does
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}
