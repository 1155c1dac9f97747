"""The names of what is measured while a net trains."""

from collections.abc import Iterable


def measures(split: str, classes: Iterable[str] = ()) -> list[str]:
    """Loss, accuracy, and the AUC of each of the classes, on a split."""
    return [f"{split}_loss", f"{split}_accuracy", *(f"{split}_auc_{name}" for name in classes)]


def of_an_epoch(classes: Iterable[str]) -> list[str]:
    """By which an epoch can be the best, or the last."""
    return [*measures("val", classes), *measures("train")]
