"""Open the two datasets of a comparison, and refuse two that cannot be compared."""

from dataclasses import dataclass
from pathlib import Path

from hepflow.config.compare import CompareConfig
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError
from hepflow.evaluate.datasets.sources import EventsSource, Source, StoreSource, opened
from hepflow.physics import multiplicities
from hepflow.schema import DEFINITIONS, Feature
from hepflow.system.remote import is_remote

NO_UNITS = "1"


@dataclass(frozen=True)
class Pair:
    """Two datasets with the same features and classes."""

    names: tuple[str, str]
    sources: tuple[Source, Source]
    """Input and reference."""
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    """Facts about the two that a reader must know, in sentences."""

    @property
    def quantities(self) -> tuple[Feature, ...]:
        """The columns of `Rows.values`."""
        return (*self.sources[0].hlf, *self.sources[0].extra)

    @property
    def n_hlf(self) -> int:
        """Number of high-level features, the first of the quantities."""
        return len(self.sources[0].hlf)


def open_pair(config: CompareConfig) -> Pair:
    """Open both datasets; one line if they are of different classes, features or definitions."""
    first, second = _sources(config)
    _check_features(first, second)
    notes = _set_extra(first, second)
    if first.physics and second.physics and first.physics != second.physics:
        both = f"{first.path}: {first.physics}; {second.path}: {second.physics}"
        notes.append(f"The features were computed by different physics ({both}).")
    if first.provenance == second.provenance:
        notes.append("Both are the same dataset.")
    names = config.names or _names(config.input, config.reference)
    return Pair((names[0], names[1]), (first, second), _classes(config, first, second), (*notes,))


def _sources(config: CompareConfig) -> tuple[Source, Source]:
    found = [opened(path) for path in (config.input, config.reference)]
    stores = [one for one in found if isinstance(one, EventStore)]
    if len(stores) == len(found) and config.physics:
        raise ConfigError("--physics is for events, and both datasets are feature stores")
    for store in stores:
        own = store.spec.definitions
        if config.definitions not in (None, own):
            what = f"a store of the {own} definitions, not of --definitions {config.definitions}"
            raise ConfigError(f"{store.path}: {what}. Leave out --definitions, or give its events.")
    definitions = config.definitions or (stores[0].spec.definitions if stores else DEFINITIONS[0])
    first, second = (
        StoreSource(one)
        if isinstance(one, EventStore)
        else EventsSource(one, definitions, config.physics)
        for one in found
    )
    return first, second


def _check_features(first: Source, second: Source) -> None:
    names = [[feature.name for feature in source.hlf] for source in (first, second)]
    if names[0] != names[1]:
        new = [name for name in names[1] if name not in names[0]]
        gone = [name for name in names[0] if name not in names[1]]
        what = "its high-level features are in another order than"
        if new or gone:
            more = f"has {', '.join(new)}" if new else ""
            less = f"lacks {', '.join(gone)}" if gone else ""
            what = f"it {' and '.join(filter(None, (more, less)))}, unlike"
        advice = "Make both by the same `hepflow features --physics`."
        raise DataError(f"{second.path}: {what} {first.path}. {advice}")
    for one, other in ((first, second), (second, first)):
        if _is_scaled(one) and not _is_scaled(other):
            what = f"its values are scaled and have no units, those of {other.path} have"
            advice = "Compare it with another import of the same scaling."
            raise DataError(f"{one.path}: {what}. {advice}")
    if first.definitions != second.definitions:
        both = f"of the {second.definitions} definitions, those of {first.path}"
        advice = "Make both with the same `hepflow features --definitions`."
        raise DataError(f"{second.path}: features {both} {first.definitions}. {advice}")
    for own, same in zip(first.hlf, second.hlf, strict=True):
        if own != same:
            units = f"{same.unit}, in {first.path} {own.unit}"
            advice = "Make both with the same `hepflow features`."
            raise DataError(f"{second.path}: the unit of {own.name} is {units}. {advice}")


def _is_scaled(source: Source) -> bool:
    return all(feature.unit == NO_UNITS for feature in source.hlf)


def _set_extra(first: Source, second: Source) -> list[str]:
    """Choose the quantities behind the features, by what both can give; return notes."""
    extra = multiplicities.listed(first.particles)
    notes = []
    if first.kind == second.kind == EventsSource.kind:
        extra = multiplicities.OF_EVENTS
    elif without := [one for one in (first, second) if not one.has_particles]:
        extra = ()
        paths = " and ".join(str(one.path) for one in without)
        notes.append(f"No particles in {paths}, so there are no multiplicities.")
    elif first.particles != second.particles:
        extra = ()
        notes.append("Their particles have different features: there are no multiplicities.")
    if _is_scaled(first):
        notes.append("The values have no units. If they are scaled, each import is in its own way.")
    first.extra = second.extra = extra
    return notes


def _classes(config: CompareConfig, first: Source, second: Source) -> tuple[str, ...]:
    for source in (first, second):
        unknown = [name for name in config.classes if name not in source.classes]
        if unknown:
            what = f"--classes names {', '.join(unknown)}, but the classes of {source.path} are"
            raise ConfigError(f"{what} {', '.join(source.classes)}")
    if config.classes:
        return tuple(dict.fromkeys(config.classes))
    if {*first.classes} != {*second.classes}:
        common = [name for name in first.classes if name in second.classes]
        advice = "They have none in common."
        if common:
            advice = f"Compare those in common: --classes {','.join(common)}."
        other = f"those of {first.path} {', '.join(first.classes)}"
        what = f"its classes are {', '.join(second.classes)}, {other}"
        raise DataError(f"{second.path}: {what}. {advice}")
    return first.classes


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Return the last parts of two paths, as many as make them differ."""
    parts = [str(one if is_remote(one) else one.absolute()).split("/") for one in (first, second)]
    for n in range(1, max(map(len, parts)) + 1):
        tails = ["/".join(own[-n:]) for own in parts]
        if tails[0] != tails[1]:
            return tails[0], tails[1]
    return "input", "reference"
