"""Times, sizes and counts in the words of messages."""

import pytest

from rundir.quantities import (
    GIB,
    MIB,
    age,
    count,
    duration,
    elapsed,
    gib,
    rounded_duration,
    size,
    walltime,
    walltime_seconds,
)


@pytest.mark.parametrize(
    ("number", "noun", "plural", "words"),
    [
        (0, "rank", "", "0 ranks"),
        (1, "rank", "", "1 rank"),
        (2, "rank", "", "2 ranks"),
        (1, "process", "processes", "1 process"),
        (3, "process", "processes", "3 processes"),
        (1_234_567, "row", "", "1,234,567 rows"),
        (1.2, "row", "", "1 row"),
        (0.4, "row", "", "0 rows"),
    ],
)
def test_one_thing_is_singular(number: float, noun: str, plural: str, words: str) -> None:
    assert count(number, noun, plural) == words


@pytest.mark.parametrize(
    ("num_bytes", "decimals", "words"),
    [
        (79.1 * GIB, 1, "79.1 GiB"),
        (2 * GIB, 2, "2.00 GiB"),
        (0.1 * GIB, 1, "0.1 GiB"),
        (12.34 * MIB, 1, "12.3 MiB"),
        (12.34 * MIB, 2, "12.3 MiB"),
    ],
)
def test_small_sizes_are_told_in_mib(num_bytes: float, decimals: int, words: str) -> None:
    assert size(num_bytes, decimals) == words


def test_a_size_to_compare_stays_in_gib() -> None:
    assert (gib(15.6 * GIB, 0), gib(MIB, 2)) == ("16 GiB", "0.00 GiB")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "no limit"),
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (119, "1 min"),
        (5400, "1 h 30 min"),
        (2 * 86400 + 4 * 3600, "2 d 4 h"),
    ],
)
def test_a_limit_is_told_to_the_minute(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.3, "< 1 s"), (0.7, "1 s"), (40, "40 s"), (125, "2 min 5 s"), (26 * 3600 + 300, "26 h 5 min")],
)
def test_a_measured_time_is_told_in_two_units(seconds: float, words: str) -> None:
    assert elapsed(seconds) == words


def test_an_estimate_is_told_in_one_unit() -> None:
    assert [rounded_duration(seconds) for seconds in (40, 750, 5399, 8640)] == ["40 s", "12.5 min", "90.0 min", "2.4 h"]
    assert rounded_duration(4320, hours_from=3600, minutes=0) == "1.2 h"
    assert rounded_duration(750, hours_from=3600, minutes=0) == "12 min"
    assert rounded_duration(1800, hours_from=360, hours=2, minutes=2) == "0.50 h"


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0 s"), (40, "40 s"), (720, "12 min"), (5 * 3600, "5 h"), (3 * 86400, "3 d")]
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, words: str) -> None:
    assert age(seconds) == words


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("4h", 14_400), ("2d", 172_800)])
def test_a_walltime_is_read(text: str, seconds: int) -> None:
    assert walltime_seconds(text) == seconds


@pytest.mark.parametrize(("seconds", "text"), [(14_400, "4h"), (5400, "90m"), (5459, "90m"), (30, "1m")])
def test_a_walltime_is_written(seconds: float, text: str) -> None:
    assert walltime(seconds) == text
