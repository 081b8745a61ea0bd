"""metrics.csv and eval.csv, and the sums that become the next row."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.clock import Clock
from rl.runs import files

TRAIN_COLUMNS = (
    ["frames", "episodes", "updates", "wall_s", "fps", "total_reward", "total_reward_ma", "episode_length"]
    + ["loss", "lr", "explore", "entropy_coef", "entropy", "grad_norm"]
)  # fmt: skip
EVAL_COLUMNS = (
    ["frames", "updates", "wall_s", "episodes", "total_reward", "total_reward_std"]
    + ["total_reward_min", "total_reward_max", "total_reward_ma", "episode_length"]
)  # fmt: skip
MOVING_AVERAGE = 100  # training episodes in total_reward_ma
EVAL_AVERAGE = 20  # evaluation episodes in it, or all of one evaluation if that has more


class Table:
    """A CSV file that only grows; a checkpoint stores its size, and a resume truncates it to that size."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, list(columns)

    def start(self) -> None:
        """Write a new file with only the header."""
        files.write_atomic(self.path, _line(self.columns))

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one row; a missing value is an empty cell. ValueError for an unknown column."""
        unknown = row.keys() - set(self.columns)
        if unknown:
            known = ", ".join(self.columns)
            raise ValueError(
                f"{self.path.name} has no column {', '.join(sorted(unknown))}; its columns are {known}"
            )
        files.append(self.path, _line([_cell(row.get(column)) for column in self.columns]))

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.path.stat().st_size

    def last_rows(self, number: int) -> list[dict[str, str]]:
        """The last rows, as text; only the file's end is read."""
        with self.path.open("rb") as file:
            begin = len(file.readline())
            # a cell has at most 24 characters and a comma
            begin = max(begin, self.size - (number + 1) * 25 * len(self.columns))
            file.seek(begin - 1)
            lines = file.read().decode().split("\n")[1:-1]  # the first is the end of the line before
        return list(csv.DictReader(lines[-number:], self.columns))


def _cell(value: Any) -> str:
    return "" if value is None else repr(float(value)) if isinstance(value, float) else str(value)


def _line(cells: Sequence[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()


class Metrics:
    """Collects what training reports between two rows of metrics.csv."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """`columns`: those that the algorithm adds to the common ones."""
        self.table = Table(path, [*TRAIN_COLUMNS, *(c for c in columns if c not in TRAIN_COLUMNS)])
        self.recent: deque[float] = deque(maxlen=MOVING_AVERAGE)  # returns of the last episodes
        self.returns: list[float] = []  # of the episodes that ended since the last row
        self.lengths: list[int] = []
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self._row_frames, self._row_wall_s = 0, 0.0  # for fps, within this session only

    @property
    def total_reward_ma(self) -> float | None:
        """Mean return of the last 100 training episodes, or of all if fewer; None before the first."""
        return sum(self.recent) / len(self.recent) if self.recent else None

    def add_episodes(self, returns: Sequence[float], lengths: Sequence[int]) -> None:
        """Add episodes that ended."""
        self.recent.extend(returns)
        self.returns.extend(returns)
        self.lengths.extend(lengths)

    def add(self, values: Mapping[str, float]) -> None:
        """Add one iteration's values; a row holds their mean since the previous row."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def start_session(self, clock: Clock) -> None:
        """Measure fps from now on."""
        self._row_frames, self._row_wall_s = clock.frames, clock.wall_s

    def write(self, clock: Clock) -> dict[str, Any]:
        """Append a row and reset the sums."""
        wall_s = clock.wall_s
        row: dict[str, Any] = {
            "frames": clock.frames,
            "episodes": clock.episodes,
            "updates": clock.updates,
            "wall_s": wall_s,
            "fps": (clock.frames - self._row_frames) / max(wall_s - self._row_wall_s, 1e-9),
            "total_reward": sum(self.returns) / len(self.returns) if self.returns else None,
            "total_reward_ma": self.total_reward_ma,
            "episode_length": sum(self.lengths) / len(self.lengths) if self.lengths else None,
        }
        row |= {name: total / self.counts[name] for name, total in self.sums.items()}
        self.table.append(row)
        self.returns, self.lengths, self.sums, self.counts = [], [], {}, {}
        self._row_frames, self._row_wall_s = clock.frames, wall_s
        return row

    def state_dict(self) -> dict[str, Any]:
        """The sums for the next row."""
        return {
            "recent": list(self.recent),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "sums": dict(self.sums),
            "counts": dict(self.counts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums."""
        self.recent = deque(state["recent"], maxlen=MOVING_AVERAGE)
        self.returns, self.lengths = list(state["returns"]), list(state["lengths"])
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


def moving_average(rows: Sequence[Mapping[str, Any]], total_reward: float, episodes: int) -> float:
    """Mean return of the last max(20, `episodes`) evaluation episodes: this evaluation's, and if they are
    fewer than 20, those of earlier rows too. A longer average would lag, and choose poor weights as the best.
    """
    window = max(EVAL_AVERAGE, episodes)
    total, count = 0.0, 0
    pairs = [(float(row["total_reward"]), int(row["episodes"])) for row in rows]
    for mean, number in reversed([*pairs, (total_reward, episodes)]):
        taken = min(number, window - count)
        total += mean * taken
        count += taken
    return total / count
