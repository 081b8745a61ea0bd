from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from short_runs import rows

from rl.clock import Clock
from rl.runs import files
from rl.training.metrics import EVAL_COLUMNS, Metrics, Table, moving_average

COMMON = (
    "frames,episodes,updates,wall_s,fps,total_reward,total_reward_ma,episode_length,"
    "loss,lr,explore,entropy_coef,entropy,grad_norm"
)


def test_the_header_is_common_then_algorithm_columns(tmp_path: Path) -> None:
    Metrics(tmp_path / "metrics.csv", ["value_loss", "entropy", "q_mean"]).table.start()
    assert (tmp_path / "metrics.csv").read_text() == f"{COMMON},value_loss,q_mean\n"
    assert ",".join(EVAL_COLUMNS) == (
        "frames,updates,wall_s,episodes,total_reward,total_reward_std,"
        "total_reward_min,total_reward_max,total_reward_ma,episode_length"
    )


def test_missing_values_are_empty_and_floats_written_by_repr(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", ["a", "b", "c", "d"])
    table.start()
    table.append({"a": 0.1 + 0.2, "c": 10**20, "d": np.float64(1e-300)})
    table.append({"a": float("nan"), "b": None, "c": True})
    assert (tmp_path / "t.csv").read_text() == f"a,b,c,d\n0.30000000000000004,,{10**20},1e-300\nnan,,True,\n"


def test_an_unknown_column_is_refused_and_nothing_written(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", ["a"])
    table.start()
    with pytest.raises(ValueError, match="no column bad"):
        table.append({"a": 1, "bad": 2})
    assert table.last_rows(9) == []


def test_a_row_is_the_mean_since_the_row_before(tmp_path: Path) -> None:
    metrics, clock = Metrics(tmp_path / "metrics.csv", []), Clock()
    metrics.table.start()
    metrics.add_episodes([1.0, 3.0], [10, 20])
    metrics.add({"loss": 2.0})
    metrics.add({"loss": 4.0, "lr": 0.5})
    clock.tick(100, 2)
    metrics.write(clock)
    clock.tick(100, 0)
    metrics.write(clock)
    first, second = rows(tmp_path / "metrics.csv")
    taken = ("frames", "episodes", "total_reward", "total_reward_ma", "episode_length", "loss", "lr")
    assert [first[name] for name in taken] == ["100", "2", "2.0", "2.0", "15.0", "3.0", "0.5"]
    assert [second[name] for name in taken] == ["200", "2", "", "2.0", "", "", ""]


def test_total_reward_ma_is_of_the_last_hundred_episodes(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.csv", [])
    assert metrics.total_reward_ma is None
    metrics.add_episodes([float(n) for n in range(250)], [1] * 250)
    assert metrics.total_reward_ma == sum(range(150, 250)) / 100


def test_the_sums_behind_the_next_row_are_state(tmp_path: Path) -> None:
    one, other = Metrics(tmp_path / "1.csv", []), Metrics(tmp_path / "2.csv", [])
    one.add_episodes([float(n) for n in range(150)], list(range(150)))
    one.add({"loss": 0.1})
    other.load_state_dict(one.state_dict())
    clock = Clock()
    for metrics in (one, other):
        metrics.add({"loss": 0.7})
        metrics.add_episodes([5.0], [1])
        metrics.table.start()
        metrics.write(clock)
    differing = {
        name
        for a, b in zip(rows(tmp_path / "1.csv"), rows(tmp_path / "2.csv"), strict=True)
        for name in a
        if a[name] != b[name]
    }
    assert differing <= {"wall_s", "fps"}


def test_a_truncated_table_continues_as_if_nothing_followed(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", ["a"])
    table.start()
    table.append({"a": 1})
    size = table.size
    table.append({"a": 2})
    files.append(table.path, b"3.14")  # half a row
    files.cut(table.path, size)
    table.append({"a": 4})
    assert table.path.read_text() == "a\n1\n4\n"


def test_the_evaluations_average_is_of_these_weights_alone() -> None:
    before = [
        {"total_reward": "1.0", "episodes": "50"},
        {"total_reward": "2.0", "episodes": "6"},
        {"total_reward": "4.0", "episodes": "8"},
    ]
    assert moving_average([], 7.0, 50) == 7.0
    assert moving_average(before, 3.0, 50) == 3.0
    assert moving_average(before, 3.0, 20) == 3.0
    assert moving_average(before, 8.0, 8) == pytest.approx((8 * 8 + 4 * 8 + 2 * 4) / 20)
    assert moving_average(before, 8.0, 2) == pytest.approx((8 * 2 + 4 * 8 + 2 * 6 + 1 * 4) / 20)
    assert moving_average(before[1:], 8.0, 1) == pytest.approx((8 * 1 + 4 * 8 + 2 * 6) / 15)


def test_the_last_rows_are_read_from_the_files_end(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", ["frames", "total_reward"])
    table.start()
    assert table.last_rows(3) == []
    for n in range(1000):
        table.append({"frames": n, "total_reward": -1 / 3 * 10**-n if n % 2 else n})
        if n in (0, 1, 2, 3, 999):
            expected = [str(i) for i in range(max(n - 2, 0), n + 1)]
            assert [row["frames"] for row in table.last_rows(3)] == expected
    assert table.last_rows(2000)[0] == {"frames": "0", "total_reward": "0"}
