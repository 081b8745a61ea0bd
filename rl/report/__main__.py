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


def report(arguments: Sequence[str]) -> Path | None:
    """Write the report of a command line and return its page; with watch=true show it until Ctrl-C.

    Refused or ConfigError if it cannot be made.
    """
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
    if config.watch:
        _watch(config, names)
        return None
    folders = {folder.resolve(): folder for name in names for folder in find_runs(name, Path(config.outputs))}
    out = report_folder(config, names)
    files = make_page([read_run(folder) for folder in folders.values()], names, out, config.center)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (out / name).write_bytes(data)
    return out / PAGE


def _watch(config: ReportConfig, names: list[str]) -> None:
    from rl.report.watch import LivePage, watch

    if config.out is not None:
        raise Refused("watch=true shows the page and writes none: leave out=... away")
    outputs = Path(config.outputs)
    # latest is one and the same from here on
    names = [str(latest(outputs)) if name == "latest" else name for name in names]
    watch(LivePage(names, outputs, config.center), config.port)


def main() -> None:
    """Run the command."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    if args.help:
        print(show_help("rl.report"))
    else:
        with_exit_codes(lambda: _report(args.overrides))


def _report(arguments: Sequence[str]) -> None:
    page = report(arguments)
    if page is not None:
        print(page)


if __name__ == "__main__":
    main()
