"""`python -m rl.report <runs or sweeps>`: one page that opens from disk, and its charts as PNG files.

Runs that differ in nothing but their seed are one result; every environment has a section. The page is
report.html filled in; the same runs give the same bytes. Nothing here writes to a run, or waits for one that
trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl.config import ConfigError, ReportConfig, install_line
from rl.config.compose import compose
from rl.config.help import show_help
from rl.report.page import PAGE, make_page, place
from rl.report.runs import find_runs, read_run
from rl.runs.outcome import Refused, with_exit_codes


def report(words: Sequence[str]) -> Path:
    """Write the report that a command line asks for; its page. Refused or ConfigError if that cannot be."""
    named = [word for word in words if "=" not in word or Path(word).exists()]
    options = [word for word in words if word not in named]
    config: ReportConfig = compose(options, ReportConfig, "report").config
    if not named:
        raise Refused(
            "what to report? type latest, or the folders of runs and sweeps; python -m rl.runs lists the runs"
        )
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error}: {install_line('report')}") from error
    folders = {folder.resolve(): folder for word in named for folder in find_runs(word, Path(config.outputs))}
    out = place(config, named)
    made = make_page([read_run(folder) for folder in folders.values()], named, out, config.center)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in made.items():
        (out / name).write_bytes(data)
    return out / PAGE


def main() -> None:
    """Read the command line and report."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    if args.help:
        print(show_help("rl.report"))
    else:
        with_exit_codes(lambda: print(report(args.overrides)))


if __name__ == "__main__":
    main()
