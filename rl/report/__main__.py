"""`python -m rl.report <runs or sweeps>`: one self-contained HTML page, and its charts as PNG files.

Runs that differ only in their seed are one result; every environment has a section. The page is the template
report.html filled in; the same runs give the same bytes. Reporting never writes to a run, nor waits for one
that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl.config import ConfigError, ReportConfig, install_line
from rl.config.compose import compose
from rl.config.help import show_help
from rl.config.invocation import command
from rl.report.page import PAGE, make_page, report_folder
from rl.report.runs import find_runs, latest, read_run
from rl.runs.outcome import Refused, with_exit_codes


def report(arguments: Sequence[str]) -> Path:
    """Write the report of a command line and return its page. Refused or ConfigError if it cannot be made."""
    return _write(*_read(arguments))


def _read(arguments: Sequence[str]) -> tuple[ReportConfig, list[str]]:
    """The configuration, and the runs and sweeps that are named."""
    names = [argument for argument in arguments if "=" not in argument or Path(argument).exists()]
    overrides = [argument for argument in arguments if argument not in names]
    config: ReportConfig = compose(overrides, ReportConfig, "report").config
    if not names:
        raise Refused(
            f"what to report? type latest, or the folders of runs and sweeps; {command('runs')} lists them"
        )
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error}: {install_line('report')}") from error
    return config, names


def _write(config: ReportConfig, names: list[str]) -> Path:
    folders = {folder.resolve(): folder for name in names for folder in find_runs(name, Path(config.outputs))}
    out = report_folder(config, names)
    files = make_page([read_run(folder) for folder in folders.values()], names, out, config.center)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (out / name).write_bytes(data)
    return out / PAGE


def run(arguments: Sequence[str]) -> None:
    """Write the report of a command line and print where it is; with watch=true show it until Ctrl-C."""
    config, names = _read(arguments)
    if not config.watch:
        print(_write(config, names))
        return
    if config.out is not None:
        raise Refused("watch=true shows the page and writes none: leave out=... away")

    from rl.report.watch import LivePage, watch

    outputs = Path(config.outputs)
    # latest is one and the same from here on
    names = [str(latest(outputs)) if name == "latest" else name for name in names]
    watch(LivePage(names, outputs, config.center), config.port)


def main() -> None:
    """Read the command line and report."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    if args.help:
        print(show_help("rl.report"))
    else:
        with_exit_codes(lambda: run(args.overrides))


if __name__ == "__main__":
    main()
