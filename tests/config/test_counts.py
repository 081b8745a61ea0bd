from __future__ import annotations

import pytest

from rl.config.counts import format_count, parse_count


@pytest.mark.parametrize(
    ("written", "number"),
    [
        *[
            ("20M", 20_000_000),
            ("500k", 500_000),
            ("1.5M", 1_500_000),
            ("1e6", 1_000_000),
            ("10_000_000", 10_000_000),
        ],
        *[
            (7, 7),
            (1e6, 1_000_000),
            ("2G", 2 * 10**9),
            ("1b", 10**9),
            (" 3 K ", 3000),
            ("0", 0),
            ("-5", -5),
            ("1.25e2", 125),
        ],
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_a_count_reads_as_people_write_it(written: object, number: int) -> None:
    assert parse_count(written) == number


@pytest.mark.parametrize(
    "written",
    [
        "",
        "M",
        "1.5",
        "1.2345k",
        "ten",
        "1e",
        "1 000",
        True,
        None,
        [1],
        float("nan"),
        float("inf"),
        "1e-3",
        "1e999",
    ],
)
def test_what_is_no_whole_count_is_refused_with_the_forms(written: object) -> None:
    with pytest.raises(ValueError, match="20M, 500k"):
        parse_count(written)


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (20_000_000, "20M"),
        (1_500_000, "1.5M"),
        (200_000, "200k"),
        (100_352, "100_352"),
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1100, "1.1k"),
    ],
)
def test_a_count_is_written_the_short_way(number: int, written: str) -> None:
    assert format_count(number) == written


def test_what_is_written_reads_back_exactly() -> None:
    for number in [*range(0, 3000, 7), 10**6 + 1, 123_400_000, 2**53 + 1, 10**15, 12_345_600_000]:
        assert parse_count(format_count(number)) == number
