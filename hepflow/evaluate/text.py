"""Numbers as a physicist writes them, and the sentences of the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def decimals(error: float, value: float) -> int:
    """Digits behind the point that show an error to two figures, or a value to three where there is no error."""
    scale = error if error > 0 and math.isfinite(error) else abs(value) / 10 or 1.0
    return min(max(1 - math.floor(math.log10(scale)), 0), 6)


def pm(number: Mapping[str, float] | None, *, scale: float = 1.0, unit: str = "") -> str:
    """``0.9921 ± 0.0012``; a dash for nothing."""
    if number is None or not math.isfinite(number["value"]):
        return "–"
    value, error = scale * number["value"], scale * number["error"]
    places = decimals(error, value)
    if not math.isfinite(error) or not round(error, places):
        return f"{value:.{places}f}{unit}".replace("-", "−")
    return f"{value:.{places}f} ± {error:.{places}f}{unit}".replace("-", "−")


def compact(number: Mapping[str, float] | None, *, scale: float = 1.0) -> str:
    """``0.9921(12)``: the error counts in the last digits."""
    if number is None or not math.isfinite(number["value"]) or not math.isfinite(number["error"]):
        return pm(number, scale=scale)
    places = decimals(scale * number["error"], scale * number["value"])
    last = round(scale * number["error"] * 10**places)
    return f"{scale * number['value']:.{places}f}({last})" if last else pm(number, scale=scale)


def percent(number: Mapping[str, float] | None) -> str:
    """``4.2 ± 0.3 %``."""
    return pm(number, scale=100, unit=" %")


def hundredths(number: Mapping[str, float] | None) -> str:
    """``4.2 ± 0.3``, under a heading that says %."""
    return pm(number, scale=100)


def factor(number: Mapping[str, float] | None) -> str:
    """``24 ± 2``; a factor is not known to more than two figures of its error."""
    if number is None:
        return "–"
    value, error = number["value"], number["error"]
    if not math.isfinite(error) or error <= 0:
        return f"{value:.3g}"
    places = max(-math.floor(math.log10(error)), 0)
    return f"{value:.{places}f} ± {error:.{places}f}"


def p_value(p: float) -> str:
    """``0.03``, ``1.2·10⁻⁵``, ``< 10⁻⁶``."""
    if p < 1e-6:
        return f"< {power_of_ten(-6)}"
    return f"{p:.2f}" if p >= 0.1 else small(p)


def small(value: float) -> str:
    """A number between 0 and 1 to two figures: ``0.012``, ``1.2·10⁻⁵``."""
    digits, exponent = f"{value:.1e}".split("e")
    return (
        f"{value:.2g}"
        if value == 0 or int(exponent) > -4
        else f"{digits}·{power_of_ten(int(exponent))}"
    )


def power_of_ten(exponent: int) -> str:
    """``10⁻⁶``."""
    return f"10{str(exponent).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def joined(names: Sequence[str], word: str = "and") -> str:
    """``a, b and c``."""
    return (
        f" {word} ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} {word} {names[-1]}"
    )


def tied(text: str) -> str:
    """No line break beside ± and before %."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``12 s``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def mix_text(mix: Mapping[str, float], classes: Sequence[str]) -> str:
    """``wjets 63.4 %, qcd 36.2 %, ttbar 0.4 %``."""
    total = sum(mix[name] for name in classes)
    return ", ".join(
        f"{name} {100 * mix[name] / total:.3g} %" for name in sorted(classes, key=lambda c: -mix[c])
    )


def tightest(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The headline's working point of the highest signal efficiency."""
    return max(entry["selections"]["headline"]["working_points"], key=lambda point: point["target"])


def best_model(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The one that lets the least background through at the tightest working point; the first by name of equals."""
    return min(
        entries,
        key=lambda name: (
            tightest(entries[name])["background_efficiency"]["value"],
            -entries[name]["auc_mean"],
            name,
        ),
    )


def headline(entries: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> str:
    """The sentence that the report opens with."""
    name = best_model(entries)
    selection, point = entries[name]["selections"]["headline"], tightest(entries[name])
    signal, background = joined(selection["signal"]), joined(selection["background"], "or")
    each = "each of " if len(selection["signal"]) > 1 else ""
    sentence = (
        f"Keeping {100 * point['target']:g} % of {each}{signal}, {name} cuts the {background} rate "
    )
    if point["rejection"] is None:
        events = [
            sum(entries[name]["confusion"]["counts"][classes.index(c)])
            for c in selection["background"]
        ]
        most = (1 - 0.05 ** (1 / min(events))) / len(
            events
        )  # all that may pass unseen is of the class with the fewest events
        return tied(
            f"{sentence}to below {100 * most:.2g} % (95 % confidence): none of {sum(events):,} test events passes."
        )
    return tied(
        f"{sentence}by a factor of {factor(point['rejection'])}: {percent(point['background_efficiency'])} of it passes."
    )


def rate_sentence(
    entries: Mapping[str, Mapping[str, Any]], classes: Sequence[str], mix: Mapping[str, float]
) -> str:
    """What that makes of the trigger's whole rate; empty where the mix does not name the classes."""
    point = tightest(entries[best_model(entries)])
    if point["rate_reduction"] is None:
        return ""
    sentence = f"At the online mix of {mix_text(mix, classes)} the lepton trigger's whole rate falls by a factor of "
    return tied(
        f"{sentence}{factor(point['rate_reduction'])}, and {percent(point['purity'])} of what is left is signal."
    )
