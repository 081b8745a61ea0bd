"""The weights of a run at some moment: for `fork=` and for enjoy.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rl.config.counts import format_count, parse_count
from rl.config.overrides import Overrides
from rl.runs.find import latest_run, outputs_folder
from rl.runs.manifest import DamagedError, Manifest, list_manifests, newest_manifest, read_verified
from rl.runs.outcome import Refused
from rl.serialize import load

if TYPE_CHECKING:
    from rl.algos.agent import Agent


@dataclass(frozen=True)
class Weights:
    """The weights of a run at some moment, as its files hold them."""

    run: Path
    name: str  # best, last, or the frames of a checkpoint; with the frame and the score
    data: bytes
    prefix: str  # what comes before the names of the agent's parts in `data`
    frames: int


def load_weights(agent: Agent, weights: Weights, device: str) -> None:
    """Give an agent the weights of a run. Refused if names or shapes differ."""
    state = load(weights.data, device)
    try:
        for name in agent.policy_parts:
            agent.parts[name].load_state_dict(state[weights.prefix + name])
    except (KeyError, RuntimeError, ValueError) as error:
        raise Refused(f"the weights of {weights.run} do not fit: {error}") from error


def fork_weights(fork: str, overrides: Overrides) -> tuple[Weights, str]:
    """The weights that `fork=` means, and how to name them wherever and whenever it is typed."""
    run, _, which = fork.rpartition("@") if "@" in fork else (fork, "", "best")
    if run == "latest":
        run = str(latest_run(outputs_folder(overrides)))
    if not (Path(run) / "ckpt").is_dir():
        raise Refused(
            f"fork={fork}: no run is there; type fork=latest or fork=<a run's folder>, and "
            "@best, @last or @<frames> if you like"
        )
    weights = read_weights(Path(run), which, "fork")
    return weights, f"{Path(run).absolute()}@{weights.frames if weights.prefix else 'best'}"


def read_weights(folder: Path, which: str, key: str = "ckpt") -> Weights:
    """The best or last weights of a run, or those of a kept checkpoint (`which` is its frames). Refused if
    there are none.
    """
    for attempts_left in reversed(range(5)):
        newest, problems = newest_manifest(folder / "ckpt", replay=False)
        if newest is None:
            raise Refused("\n".join([f"{folder}: it has no whole checkpoint", *problems]))
        try:
            manifest, file, name, prefix, frames = _choose_weights(folder, which, newest, key)
            return Weights(folder, name, read_verified(folder / "ckpt", manifest, file), prefix, frames)
        except DamagedError:
            # a run that trains may delete a file between our two looks; then look again
            if not attempts_left:
                raise
    raise AssertionError


def _choose_weights(
    folder: Path, which: str, newest: Manifest, key: str
) -> tuple[Manifest, str, str, str, int]:
    if which == "best":
        best = newest.best
        if best is None:
            last = f"{folder}@last" if key == "fork" else "last"
            why = "has not been evaluated yet, so it has no best weights"
            raise Refused(f"{folder} {why}; type {key}={last}")
        name = f"best (frame {format_count(best.frames)}, score {best.score:.2f})"
        return newest, best.file, name, "", best.frames
    if which == "last":
        return newest, newest.data, f"last (frame {format_count(newest.frames)})", "agent.", newest.frames
    try:
        frames = parse_count(which)
    except ValueError:
        frames = -1
    whole, _ = list_manifests(folder / "ckpt", replay=False)
    for manifest in whole:
        if manifest.frames == frames:
            return manifest, manifest.data, f"frame {format_count(frames)}", "agent.", frames
    kept = ", ".join(format_count(m.frames) for m in whole)
    raise Refused(
        f"{which}: {folder} has no such weights; there are best, last and the checkpoints at frames {kept}"
    )
