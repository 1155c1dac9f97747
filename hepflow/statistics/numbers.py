"""Numbers as text: as many digits as the error allows, powers of ten, durations, lists of names.

A number with an error is a mapping with ``value`` and ``error``, as in metrics.json; None is a
number that cannot be given, and becomes a dash.
"""

import math
from collections.abc import Mapping, Sequence

Number = Mapping[str, float] | None
DASH = "–"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decimals(error: float, value: float) -> int:
    """Return the decimals that show an error to two figures, or a value without one to three."""
    scale = error if error > 0 and math.isfinite(error) else abs(value) / 10 or 1.0
    return min(max(1 - math.floor(math.log10(scale)), 0), 6)


def pm(number: Number, *, scale: float = 1.0, unit: str = "") -> str:
    """Return ``0.9921 ± 0.0012``."""
    if number is None or not math.isfinite(number["value"]):
        return DASH
    value, error = scale * number["value"], scale * number["error"]
    places = decimals(error, value)
    known = math.isfinite(error) and round(error, places)
    text = f"{value:.{places}f} ± {error:.{places}f}" if known else f"{value:.{places}f}"
    return (text + unit).replace("-", "−")


def compact(number: Number) -> str:
    """Return ``0.9921(12)``: the error counts in the last digits."""
    if number is None or not math.isfinite(number["value"]) or not math.isfinite(number["error"]):
        return pm(number)
    places = decimals(number["error"], number["value"])
    last = round(number["error"] * 10**places)
    return f"{number['value']:.{places}f}({last})" if last else pm(number)


def percent(number: Number) -> str:
    """Return ``4.2 ± 0.3 %``."""
    return pm(number, scale=100, unit=" %")


def hundredths(number: Number) -> str:
    """Return ``4.2 ± 0.3``, for a column in percent."""
    return pm(number, scale=100)


def factor(number: Number) -> str:
    """Return ``24 ± 2``: the error of a factor has one figure."""
    if number is None:
        return DASH
    value, error = number["value"], number["error"]
    if not math.isfinite(error) or error <= 0:
        return f"{value:.3g}"
    places = max(-math.floor(math.log10(error)), 0)
    return f"{value:.{places}f} ± {error:.{places}f}"


def p_value(p: float) -> str:
    """Return ``0.03``, ``1.2·10⁻⁵`` or ``< 10⁻⁶``."""
    if p < 1e-6:
        return f"< {power_of_ten(-6)}"
    return f"{p:.2f}" if p >= 0.1 else small(p)


def small(value: float) -> str:
    """Return a number between 0 and 1 to two figures: ``0.012``, ``1.2·10⁻⁵``."""
    digits, exponent = f"{value:.1e}".split("e")
    if int(exponent) > -4:
        return f"{value:.2g}"
    return f"{digits}·{power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    """Return ``10⁻⁶``."""
    return f"10{str(exponent).translate(SUPERSCRIPTS)}"


def duration(seconds: float) -> str:
    """Return ``2 h 05 min`` or ``12 s``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def listed(names: Sequence[str], word: str = "and") -> str:
    """Return ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last


def tied(text: str) -> str:
    """Replace the spaces next to ± and before % by spaces that do not break."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")
