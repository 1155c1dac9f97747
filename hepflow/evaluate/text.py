"""Sentences of the report: the headline, what was checked, and how the numbers were made."""

from collections.abc import Mapping, Sequence
from typing import Any

from hepflow.config.stages import EvaluateConfig
from hepflow.statistics.metrics import FINE_BINS
from hepflow.statistics.numbers import factor, listed, percent, tied

Entries = Mapping[str, Mapping[str, Any]]


def mix_text(mix: Mapping[str, float], classes: Sequence[str]) -> str:
    """Return ``wjets 63.4 %, qcd 36.2 %, ttbar 0.4 %``."""
    total = sum(mix[name] for name in classes)
    ordered = sorted(classes, key=lambda name: -mix[name])
    return ", ".join(f"{name} {100 * mix[name] / total:.3g} %" for name in ordered)


def tightest(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the headline's working point of the highest signal efficiency."""
    return max(entry["selections"]["headline"]["working_points"], key=lambda point: point["target"])


def best_model(entries: Entries) -> str:
    """Return the model that passes least at the tightest working point, then by AUC and name."""
    ranks = []
    for name, entry in entries.items():
        passing = tightest(entry)["background_efficiency"]["value"]
        ranks.append((passing, -entry["auc_mean"], name))
    return min(ranks)[-1]


def headline(entries: Entries, classes: Sequence[str]) -> str:
    """Return the first sentence of the report."""
    name = best_model(entries)
    selection, point = entries[name]["selections"]["headline"], tightest(entries[name])
    signal, background = listed(selection["signal"]), listed(selection["background"], "or")
    each = "each of " if len(selection["signal"]) > 1 else ""
    start = f"Keeping {100 * point['target']:g} % of {each}{signal}, {name} cuts the {background}"
    if point["rejection"] is None:
        counts = entries[name]["confusion"]["counts"]
        events = [sum(counts[classes.index(c)]) for c in selection["background"]]
        # The limit is highest if all that passes is of the class with the fewest events.
        most = (1 - 0.05 ** (1 / min(events))) / len(events)
        limit = f"rate to below {100 * most:.2g} % (95 % confidence)"
        return tied(f"{start} {limit}: none of {sum(events):,} test events passes.")
    passes = percent(point["background_efficiency"])
    return tied(f"{start} rate by a factor of {factor(point['rejection'])}: {passes} of it passes.")


def rate_sentence(entries: Entries, classes: Sequence[str], mix: Mapping[str, float]) -> str:
    """Return the effect on the whole trigger rate; empty if the mix does not name all classes."""
    point = tightest(entries[best_model(entries)])
    if point["rate_reduction"] is None:
        return ""
    return tied(
        f"At the online mix of {mix_text(mix, classes)} the total rate of the lepton trigger falls "
        f"by a factor of {factor(point['rate_reduction'])}, and {percent(point['purity'])} of the "
        "remaining events are signal."
    )


def checks_passed(
    config: EvaluateConfig, *, leak: bool, elsewhere: Sequence[str] = ()
) -> list[str]:
    """Return the checks that the runs passed; ``leak``: every event was compared with its store.

    ``elsewhere`` names the models that were trained on other samples.
    """
    once = "All predictions are of the test split, every event occurs once, every logit is finite."
    passed = [once]
    if leak:
        passed.append(
            "Every test event is in the test split of its store and in no other split, by event_id "
            "and by its features and particles; the normalisation uses the training split alone."
        )
    if config.common_events:
        return [*passed, "All models are compared on the test events that all of them have."]
    if not config.other_events:
        if not elsewhere:
            return [*passed, "All models were trained on one store and tested on the same events."]
        passed.append("All models were tested on the same events.")
        return [*passed, f"All models except {listed(elsewhere)} were trained on one store."]
    asked = "Models may have been tested on different events, because that was asked for"
    return [*passed, f"{asked}; differences are on common events."]


def method(config: EvaluateConfig, n_events: int, displays: int) -> list[str]:
    """Return how the numbers were made."""
    counted = "every distinct score"
    if n_events > config.exact_below:
        many = f"above {config.exact_below:,} events"
        counted = f"scores in {FINE_BINS:,} bins of the log-odds ({many})"
    return [
        "Every class has the same total weight, so that numbers do not depend on how many events "
        "of each class were simulated.",
        "A selection is a cut on the log-odds of its signal against its background classes; "
        "for one class against the rest this orders events as its probability does.",
        f"AUC and efficiencies count {counted}; ties count half.",
        "Errors of AUCs: DeLong, of the test sample. Errors of shares: Wilson's 68 % interval.",
        f"Errors of working points: standard deviation over {config.bootstrap} Poisson bootstrap "
        f"replicas (seed {config.seed}), with the threshold determined again in each.",
        "Differences between models: DeLong's covariance on the same events, Holm's correction.",
        "Hard events have the largest log-odds of the predicted against the true class. "
        f"The {displays} hardest are drawn.",
    ]
