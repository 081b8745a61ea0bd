"""train.py: a command line becomes a run, or continues one."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any, NoReturn

import hydra
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from omegaconf import DictConfig

from rl.config import ConfigError
from rl.config.compose import CONF, to_yaml
from rl.config.help import show_help
from rl.config.hydra_words import read_flags, read_words
from rl.config.invocation import flags, set_flags
from rl.config.overrides import Overrides, quote
from rl.imports import uncollected
from rl.runs import mirror
from rl.runs.completion import completed
from rl.runs.history import saved_config
from rl.runs.outcome import Finished, with_exit_codes
from rl.runs.plan import Plan, make_plan
from rl.runs.weights import load_learned
from rl.trackers import follow as trackers
from rl.training.session import perform


def main() -> None:
    """Read the command line, and do what it asks for."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_intermixed_args()  # flags wherever they stand
    # a full disk is told once, and not by a traceback for each line that train.log cannot take
    logging.raiseExceptions = False
    # acting in NumPy: products too small to share, and the same bits everywhere
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if args.shell_completion:
        if not completed(args.overrides):
            _call_hydra(lambda _: None)
    else:
        with_exit_codes(lambda: _do(args))


def _do(args: Namespace) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"
    set_flags(read_flags(args, "config"))
    overrides, multirun = read_words(Overrides(args.overrides), multirun=args.multirun)
    if args.help:
        print(show_help("train.py", overrides, args.config_dir))
    elif args.cfg:
        _show(args, overrides)
    elif args.info or args.hydra_help:
        shown = ["--hydra-help"] if args.hydra_help else [f"--info={args.info}"]
        _call_hydra(lambda _: None, *shown, *overrides.for_hydra())
    elif multirun:
        _sweep(overrides, args.config_dir)
    else:
        run = _run_with_others if int(os.environ.get("WORLD_SIZE", 1)) > 1 else _run
        run(overrides, args.config_dir)


def _run(overrides: Overrides, config_dir: str | None) -> None:
    """Validate and build before anything is made; then take the folder, and train in it as Hydra's job."""
    typed = shlex.join(sys.argv)
    plan = make_plan(overrides, config_dir)
    if plan.unnamed and plan.composed.multirun:
        _sweep(overrides, config_dir)
    trackers.make(plan.config.logger)
    if plan.config.processes > 1:
        _launch(plan, typed)
    plan.mirror = mirror.claim(plan.config, plan.folder, **mirror.claims(plan))
    with uncollected():
        from rl.training.build import build  # imports torch: not before the command line is validated

        with mirror.released_on_error(plan.mirror):
            parts = build(plan.config)
            if plan.weights:
                plan.warnings += load_learned(parts.agent, plan.weights, plan.config.device)
            plan.take_folder()
    _call_hydra(lambda _: perform(plan, parts, typed), *_hydra_overrides(plan, overrides))


def _launch(plan: Plan, typed: str) -> NoReturn:
    """Train in several processes, as the parent of them all."""
    from rl.training.launch import check_processes, launch

    plan.warnings += check_processes(plan.config)
    plan.mirror = mirror.claim(plan.config, plan.folder, **mirror.claims(plan))
    with mirror.released_on_error(plan.mirror):
        plan.take_folder()
    raise SystemExit(launch(plan, typed, sys.argv[1:]))


def _run_with_others(overrides: Overrides, config_dir: str | None) -> None:
    """Train as one of several processes, which were started by `launch`, by torchrun or by a cluster."""
    from rl.training.build import build, check_parts_of
    from rl.training.processes import join

    def planned(size: int) -> Plan:
        if (given := overrides.get("processes")) not in (None, str(size)):
            raise ConfigError(f"processes={given}: {size} were started; type processes={size}, or nothing")
        plan = make_plan(overrides.merge([f"processes={size}"]), config_dir)
        trackers.make(plan.config.logger)
        check_parts_of(plan)
        plan.mirror = mirror.claim(plan.config, plan.folder, **mirror.claims(plan))
        with mirror.released_on_error(plan.mirror):
            plan.take_folder()
        return plan

    plan, typed, group = join(planned, shlex.join(sys.argv))
    parts = build(plan.config, group)
    if plan.weights:
        plan.warnings += load_learned(parts.agent, plan.weights, plan.config.device)
    if group.rank:
        perform(plan, parts, typed)
    else:
        _call_hydra(lambda _: perform(plan, parts, typed), *_hydra_overrides(plan, overrides))


def _hydra_overrides(plan: Plan, typed: Overrides) -> list[str]:
    """What Hydra is to do: use the folder, and leave the .hydra of a run that continues as it is."""
    folder = os.path.abspath(plan.folder)  # as Hydra will name it: without ..
    own = typed.hydra.drop("hydra.run.dir")
    target = ["hydra.mode=RUN", f"hydra.run.dir={quote(folder)}"]
    if plan.manifest:
        return [*own.for_hydra(), *target, "hydra.output_subdir=null"]
    return [*Overrides([*own, *plan.overrides]).for_hydra(), *target]


def _sweep(overrides: Overrides, config_dir: str | None) -> NoReturn:
    """Validate every job of a sweep before anything is made; then let its launcher run them."""
    from rl.sweeps.plan import plan_sweep
    from rl.sweeps.sweep import run_sweep
    from rl.training.build import check_once

    sweep = plan_sweep(overrides, config_dir, check=check_once())
    raise SystemExit(run_sweep(sweep, shlex.join(sys.argv)))


def _show(args: Namespace, overrides: Overrides) -> None:
    """`--cfg`: the configuration of the run that the command line means. One that exists has its own."""
    try:
        plan = make_plan(overrides, args.config_dir)
        values, line = plan.composed.values, plan.overrides
        exists = plan.lock is not None
        if plan.lock is not None:
            plan.lock.release()
    except Finished as finished:
        values, line, exists = saved_config(finished.folder), Overrides(), True
    if args.cfg == "job":
        shown = _select(values, args.package)
        if exists:
            print(to_yaml(shown).rstrip("\n") if isinstance(shown, dict) else shown)
            return
    package = [f"--package={args.package}"] if args.package else []
    own = overrides.hydra.drop("hydra.run.dir").for_hydra()
    resolve = ["--resolve"] if args.resolve else []
    _call_hydra(lambda _: None, f"--cfg={args.cfg}", *resolve, *package, *own, *line.for_hydra())


def _select(values: dict[str, Any], package: str | None) -> Any:
    """What `--package` names. ConfigError if there is no such key."""
    shown: Any = values
    for name in package.split(".") if package not in (None, "_global_") else ():
        if not isinstance(shown, dict) or name not in shown:
            raise ConfigError(f"--package={package}: no such key")
        shown = shown[name]
    return shown


def _call_hydra(job: Callable[[DictConfig], float | None], *arguments: str) -> None:
    """Hydra makes the folder that the arguments name, sets up the log and calls the job there."""
    if arguments:
        sys.argv[1:] = [*flags().words, *arguments]
    get_mode = Hydra.get_mode
    if "hydra.mode=RUN" in arguments:  # Hydra would compose everything once more to find that out
        Hydra.get_mode = lambda *_, **__: RunMode.RUN  # type: ignore[method-assign]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    finally:
        Hydra.get_mode = get_mode  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
