"""The command `encore`: `encore train algo=ppo`, as `python train.py algo=ppo` in a checkout."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

COMMANDS = {
    "train": ("rl.train", "train an agent, or go on with a run"),
    "enjoy": ("rl.enjoy", "watch a trained agent"),
    "runs": ("rl.runs.__main__", "list all runs"),
    "report": ("rl.report.__main__", "write a page about runs"),
    "search": ("rl.search", "search for good values of a run's keys"),
    "export": ("rl.export", "write a run's policy as a file that needs no Encore"),
}
USAGE = "\n".join(
    [
        "encore <command> [overrides]; encore <command> --help",
        "",
        *(f"  {name:<8}{help}" for name, (_, help) in COMMANDS.items()),
    ]
)


def main() -> None:
    """Run the command that is named first."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print(USAGE)
        return
    if name not in COMMANDS:
        raise SystemExit(_refuse(f"encore {name}: no such command\n\n{USAGE}"))
    foreign = _foreign()
    if foreign is not None:
        raise SystemExit(
            _refuse(
                f"{foreign}: another package named rl hides Encore's; remove it, or work in another folder"
            )
        )
    sys.argv[:2] = [f"encore {name}"]
    sys.path.append(str(Path.cwd()))  # algorithms and environments of one's own, as with python train.py
    importlib.import_module(COMMANDS[name][0]).main()


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def _foreign() -> Path | None:
    """A package `rl` that is not Encore's: imported here, or in the working directory, where the processes of
    a sweep would find it.
    """
    ours = Path(__file__).resolve().parent / "rl"
    spec = importlib.util.find_spec("rl")
    found = [] if spec is None or spec.origin is None else [Path(spec.origin).parent]
    if Path("rl", "__init__.py").is_file():
        found.append(Path("rl").absolute())
    return next((folder for folder in found if folder.resolve() != ours), None)


if __name__ == "__main__":
    main()
