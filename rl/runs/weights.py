"""The weights of a run at some moment: for `fork=` and for enjoy.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.config.counts import format_count, parse_count
from rl.config.overrides import Overrides
from rl.config.text import score_text
from rl.runs.bucket import is_url
from rl.runs.fetch import fetch
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
    score: float | None  # of the best weights


def load_weights(agent: Agent, weights: Weights, device: str) -> None:
    """Give an agent the weights of a run that acting needs. Refused if names or shapes differ."""
    _load_parts(agent, agent.policy_parts, weights, load(weights.data, device))


def load_learned(agent: Agent, weights: Weights, device: str) -> list[str]:
    """Give an agent all that a run had learned, for a fork; a warning of what the file does not hold.

    Refused if names or shapes differ.
    """
    state = load(weights.data, device)
    lost = [n for n in agent.learned_parts if n not in agent.policy_parts and weights.prefix + n not in state]
    _load_parts(agent, [name for name in agent.learned_parts if name not in lost], weights, state)
    return [f"the {weights.name} weights of {weights.run} lack {', '.join(lost)}: new here"] if lost else []


def _load_parts(agent: Agent, names: Iterable[str], weights: Weights, state: dict[str, Any]) -> None:
    try:
        for name in names:
            agent.parts[name].load_state_dict(state[weights.prefix + name])
            begin_episodes = getattr(agent.parts[name], "begin_episodes", None)
            if begin_episodes is not None:  # what it knows of the old run's episodes, it forgets
                begin_episodes()
    except (KeyError, RuntimeError, ValueError) as error:
        raise Refused(f"the weights of {weights.run} do not fit: {error}") from error


def fork_weights(fork: str, overrides: Overrides) -> tuple[Weights, str]:
    """The weights that `fork=` means, and how to name them wherever and whenever it is typed."""
    run, _, which = fork.rpartition("@") if "@" in fork else (fork, "", "best")
    if run == "latest":
        run = str(latest_run(outputs_folder(overrides)))
    elif is_url(run):
        run = str(fetch(run, outputs_folder(overrides), reading=True, key="fork")[0])
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
            manifest, file, name, prefix, frames, score = _choose_weights(folder, which, newest, key)
            data = read_verified(folder / "ckpt", manifest, file)
            return Weights(folder, name, data, prefix, frames, score)
        except DamagedError:
            # a run that trains may delete a file between our two looks; then look again
            if not attempts_left:
                raise
    raise AssertionError


def _choose_weights(
    folder: Path, which: str, newest: Manifest, key: str
) -> tuple[Manifest, str, str, str, int, float | None]:
    if which == "best":
        best = newest.best
        if best is None:
            last = f"{folder}@last" if key == "fork" else "last"
            why = "has not been evaluated yet, so it has no best weights"
            raise Refused(f"{folder} {why}; type {key}={last}")
        name = f"best (frame {format_count(best.frames)}, score {score_text(best.score)})"
        return newest, best.file, name, "", best.frames, best.score
    if which == "last":
        name = f"last (frame {format_count(newest.frames)})"
        return newest, newest.data, name, "agent.", newest.frames, None
    try:
        frames = parse_count(which)
    except ValueError:
        frames = -1
    whole, _ = list_manifests(folder / "ckpt", replay=False)
    for manifest in whole:
        if manifest.frames == frames:
            return manifest, manifest.data, f"frame {format_count(frames)}", "agent.", frames, None
    kept = ", ".join(format_count(m.frames) for m in whole)
    raise Refused(
        f"{which}: {folder} has no such weights; there are best, last and the checkpoints at frames {kept}"
    )
