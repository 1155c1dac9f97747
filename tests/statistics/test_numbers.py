"""Numbers as text: read back, they are the numbers to the stated digits."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.statistics.numbers import (
    DASH,
    compact,
    decimals,
    duration,
    factor,
    hundredths,
    listed,
    p_value,
    percent,
    pm,
    power_of_ten,
    small,
    tied,
)

UP = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
values = st.floats(-1000, 1000)
errors = st.floats(1e-4, 900)


def number(value: float, error: float) -> dict[str, float]:
    return {"value": value, "error": error}


def read_power(text: str) -> float:
    """Return the number of ``1.2·10⁻⁵`` or ``0.012``."""
    digits, _, exponent = text.partition("·10")
    return float(digits) * 10.0 ** int(exponent.translate(UP) or 0)


@pytest.mark.parametrize(
    ("value", "error", "pm_text", "compact_text", "factor_text"),
    [
        (0.99214, 0.00123, "0.9921 ± 0.0012", "0.9921(12)", "0.992 ± 0.001"),
        (24.123, 2.21, "24.1 ± 2.2", "24.1(22)", "24 ± 2"),
        (1234.5, 87.0, "1234 ± 87", "1234(87)", "1234 ± 87"),
        (-0.0312, 0.0041, "−0.0312 ± 0.0041", "-0.0312(41)", "-0.031 ± 0.004"),
        (1.0, 0.0, "1.00", "1.00", "1"),
        (0.05, 1e-9, "0.050000", "0.050000", "0.050000000 ± 0.000000001"),
        (0.0, 0.0, "0.0", "0.0", "0"),
        (12.3456, math.inf, "12.3", "12.3", "12.3"),
        (12.3456, math.nan, "12.3", "12.3", "12.3"),
    ],
)
def test_numbers_have_the_digits_of_their_errors(
    value: float, error: float, pm_text: str, compact_text: str, factor_text: str
) -> None:
    found = number(value, error)
    assert (pm(found), compact(found), factor(found)) == (pm_text, compact_text, factor_text)


@given(values, errors)
def test_a_printed_error_has_two_figures(value: float, error: float) -> None:
    shown, uncertainty = pm(number(value, error)).replace("−", "-").split(" ± ")
    assert float(uncertainty) == pytest.approx(error, rel=0.05)
    assert float(shown) == pytest.approx(value, abs=error / 20 + 0.5 * (error >= 10))
    assert len(uncertainty.replace(".", "").lstrip("0")) in {2, 3}  # 3: 99.6 becomes 100


@given(values, errors)
def test_the_compact_form_counts_the_error_in_the_last_digits(value: float, error: float) -> None:
    shown, last = re.fullmatch(r"(-?[\d.]+)\((\d+)\)", compact(number(value, error))).groups()
    unit = 10.0 ** -len(shown.partition(".")[2])
    assert float(shown) == pytest.approx(value, abs=0.51 * unit)
    assert int(last) * unit == pytest.approx(error, abs=0.51 * unit)


@given(values, errors)
def test_a_factor_has_an_error_of_one_figure(value: float, error: float) -> None:
    shown, uncertainty = factor(number(value, error)).split(" ± ")
    unit = 10.0 ** -len(shown.partition(".")[2])
    assert float(shown) == pytest.approx(value, abs=0.51 * unit)
    assert float(uncertainty) == pytest.approx(error, abs=0.51 * unit)
    assert error < 1 or unit == 1
    assert error >= 1 or len(uncertainty.replace(".", "").lstrip("0")) in {1, 2}  # 2: 0.97


@pytest.mark.parametrize("missing", [None, number(math.nan, 1.0), number(math.inf, 1.0)])
def test_a_number_that_cannot_be_given_is_a_dash(missing: dict[str, float] | None) -> None:
    for text in (pm, compact, percent, hundredths):
        assert text(missing) == DASH
    assert factor(None) == DASH


def test_a_number_without_an_error_has_three_figures_and_at_most_six_decimals() -> None:
    assert [decimals(0.0, value) for value in (123.0, 12.3, 1.0, -0.5, 0.012, 1e-12, 0.0)] == [
        *(0, 1, 2, 3, 4),
        *(6, 1),
    ]
    assert decimals(math.inf, 12.3) == decimals(math.nan, 12.3) == 1


def test_an_efficiency_is_shown_in_percent_with_or_without_the_sign() -> None:
    found = number(0.04217, 0.0031)
    assert percent(found) == "4.22 ± 0.31 %"
    assert hundredths(found) == "4.22 ± 0.31"
    assert percent(number(0.5, 0.0)) == "50.0 %"
    assert pm(found, scale=1000.0, unit=" GeV") == "42.2 ± 3.1 GeV"


@given(st.floats(1e-30, 0.999))
def test_small_numbers_are_two_figures_times_a_power_of_ten(value: float) -> None:
    text = small(value)
    assert read_power(text) == pytest.approx(value, rel=0.051)
    assert ("·" in text) == (read_power(text) < 0.00099)


def test_small_numbers_are_powers_of_ten_below_a_thousandth() -> None:
    assert [small(x) for x in (0.0, 0.012, 0.001, 0.00012, 9.96e-4)] == [
        *("0", "0.012", "0.001"),
        *("1.2·10⁻⁴", "0.001"),
    ]
    assert power_of_ten(-1234567890) == "10⁻¹²³⁴⁵⁶⁷⁸⁹⁰"


def test_a_p_value_has_a_lower_limit_and_two_decimals_above_a_tenth() -> None:
    shown = [p_value(p) for p in (1.0, 0.999, 0.1, 0.0312, 1.2e-5, 1e-6, 9.9e-7, 0.0)]
    assert shown == [
        *("1.00", "1.00", "0.10", "0.031"),
        *("1.2·10⁻⁵", "1.0·10⁻⁶", "< 10⁻⁶", "< 10⁻⁶"),
    ]


def test_durations_are_in_hours_minutes_or_seconds() -> None:
    seconds = (0.4, 12, 119, 120, 600, 119 * 60, 120 * 60, 7500, 7530.1, 100 * 3600 + 59 * 60)
    assert [duration(s) for s in seconds] == [
        *("0 s", "12 s", "119 s", "2 min", "10 min", "119 min"),
        *("2 h 00 min", "2 h 05 min", "2 h 06 min", "100 h 59 min"),
    ]


def test_names_are_listed_as_in_a_sentence() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"], "or") == "a, b or c"


def test_a_line_does_not_break_between_a_number_its_error_and_its_unit() -> None:
    text = tied("cut by 4.2 ± 0.3 % of 24 ± 2")
    numbers = "4.2\u00a0±\u00a00.3\u00a0%", "24\u00a0±\u00a02"
    assert text.split(" ") == ["cut", "by", numbers[0], "of", numbers[1]]
