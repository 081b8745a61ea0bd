"""Hydra's own flags and overrides: each does what Hydra means by it, or is refused with what to type."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rl.config.compose import CONF
from rl.config.invocation import Flags, command
from rl.config.keys import ConfigError
from rl.config.overrides import Overrides
from rl.config.read import did_you_mean

_LAUNCHERS = {
    "basic": ["launcher=basic"],
    "joblib": ["launcher=processes"],
    "submitit_local": ["launcher=slurm", "launcher.cluster=local"],
    "submitit_slurm": ["launcher=slurm", "launcher.cluster=slurm"],
    "ray": ["launcher=ray"],
}
_MODES = ("RUN", "MULTIRUN")
_OF_SWEEPS = ("launcher", "hydra/launcher", "hydra.launcher", "hydra.sweep", "hydra.sweeper")


def read_flags(args: Namespace, config_name: str) -> Flags:
    """Hydra's flags for the configuration files. ConfigError for a flag that cannot be taken here."""
    if args.experimental_rerun:
        raise ConfigError("--experimental-rerun: type resume=<run folder> to go on with a run")
    if (args.resolve or args.package is not None) and not args.cfg:
        flag = "--resolve" if args.resolve else "--package"
        raise ConfigError(f"{flag} goes with --cfg, which shows the configuration")
    if bool(args.run) + bool(args.multirun) + bool(args.cfg) + bool(args.info) > 1:
        raise ConfigError("type only one of --run, --multirun, --cfg and --info")
    path = None
    if args.config_path is not None:  # relative to train.py, as Hydra has it, or to where we are
        places = [(base / args.config_path).absolute() for base in (CONF.parent, Path.cwd())]
        path = str(next((place for place in places if place.is_dir()), places[-1]))
        _check_folder("--config-path", args.config_path, path)
    if args.config_dir is not None:
        _check_folder("--config-dir", args.config_dir, args.config_dir)
    name = (args.config_name or config_name).removesuffix(".yaml")
    folders = [path or str(CONF), *([args.config_dir] if args.config_dir is not None else [])]
    if not any((Path(folder) / f"{name}.yaml").is_file() for folder in folders):
        raise ConfigError(f"--config-name={name}: no {name}.yaml in {' or '.join(folders)}")
    return Flags(args.config_name and name, path, args.config_dir)


def _check_folder(flag: str, typed: str, folder: str) -> None:
    if not Path(folder).is_dir():
        raise ConfigError(f"{flag}={typed}: no such folder")


def read_words(overrides: Overrides, *, multirun: bool) -> tuple[Overrides, bool]:
    """The overrides in our words, and whether they are a sweep. ConfigError for a word without effect."""
    mode = overrides.get("hydra.mode")
    if mode not in (None, *_MODES):
        raise ConfigError(
            f"hydra.mode={mode}: expected RUN or MULTIRUN{did_you_mean(str(mode), list(_MODES))}"
        )
    if multirun and mode == "RUN":
        raise ConfigError("hydra.mode=RUN: type it without -m")
    multirun = multirun or mode == "MULTIRUN"
    words: list[str] = []
    for override in overrides.drop("hydra.mode"):
        key, text = override.key_or_group, override.input_line or ""
        if key == "hydra/sweeper" and override.value() != "basic":
            raise ConfigError(
                f"{text}: a search; type {command('search')} with the keys of the run and space.<key>=..."
            )
        if not multirun and (key in _OF_SWEEPS or key.startswith(tuple(f"{name}." for name in _OF_SWEEPS))):
            what = "where a sweep goes" if key == "hydra.sweep.dir" else "how a sweep runs its jobs"
            raise ConfigError(f"{text} says {what}: type -m with it")
        if key == "hydra/launcher":
            name = str(override.value())
            if name not in _LAUNCHERS:
                raise ConfigError(f"{text}: no such launcher{did_you_mean(name, list(_LAUNCHERS))}")
            words += _LAUNCHERS[name]
        elif key.startswith("hydra.launcher."):
            raise ConfigError(f"{text}: type {text.removeprefix('+').removeprefix('hydra.')}")
        elif key == "hydra.sweep.subdir":
            raise ConfigError(
                f"{text}: the folders of jobs are named by their values; hydra.sweep.dir= holds them"
            )
        elif key.startswith("hydra.sweeper.") and not key.startswith("hydra.sweeper.params"):
            raise ConfigError(f"{text}: type launcher.n_jobs=... to say how many jobs run at a time")
        elif key != "hydra/sweeper":
            words.append(text)
    return Overrides(words), multirun
