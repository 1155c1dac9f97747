"""``spark.read.format("delphes").load(path)``: Delphes ROOT files as a Spark table, one array of structs a collection.

>>> from hepflow.ingest.source import register
>>> register(spark)
>>> spark.read.format("delphes").option("collections", "Jet,MissingET").load("data/raw").createOrReplaceTempView("events")
>>> spark.sql("SELECT sample, avg(size(filter(Jet, j -> j.PT > 30))) FROM events GROUP BY sample")

Spark tells a Python data source nothing of the columns a query uses; what is read is what the schema names. So name less: with
``collections``, or with a schema of your own, ``spark.read.schema("entry bigint, Jet array<struct<PT: float>>")``, which may
name any collection and field of the files, also those that hepflow does not use itself.

Options: ``tree`` (Delphes); ``collections`` (all of hepflow.schema); ``skim`` (false: every event; true: what ingest keeps);
``target_partition_mb`` (128); ``classes`` (those of hepflow.schema: their order gives ``label``, -1 for other folders);
``bad_files`` (fail, or skip: leave out what cannot be read); ``retries`` and ``timeout_s`` as in ingest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import ArrayType, StructField, StructType

from hepflow.errors import ConfigError, DataError
from hepflow.physics import skim
from hepflow.reading.arrow import event_columns, to_arrow
from hepflow.reading.delphes import Wanted
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import EntryRange, pack, plan
from hepflow.reading.reader import Access, Chunk, RangeReader
from hepflow.schema import CLASSES, COLLECTIONS, EVENT_COLUMNS, TREE

_SQL = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "bigint",
    "string": "string",
}
_KINDS = {sql: kind for kind, sql in _SQL.items() if kind != "string"}
_OPTIONS = (
    "path",
    "tree",
    "collections",
    "skim",
    "target_partition_mb",
    "classes",
    "bad_files",
    "retries",
    "timeout_s",
)


def register(spark: SparkSession) -> None:
    """Make the format ``delphes`` known to a session."""
    spark.dataSource.register(DelphesSource)


@dataclass(frozen=True)
class Options:
    """The options, parsed."""

    path: str
    collections: tuple[str, ...]
    skim: bool
    target_bytes: int
    classes: tuple[str, ...]
    skip_bad: bool
    access: Access

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> "Options":
        """From what the user gave.

        Raises
        ------
        ConfigError
            An option is unknown, or its value is.
        """
        unknown = sorted(set(given) - set(_OPTIONS))
        if unknown or "path" not in given:
            wrong = f"unknown option {unknown[0]!r}" if unknown else "no path given"
            raise ConfigError(f"delphes: {wrong}. The options are {', '.join(_OPTIONS)}.")
        access = Access(
            given.get("tree", TREE),
            _number(given, "retries", 3),
            float(_number(given, "timeout_s", 60)),
        )
        return cls(
            path=given["path"],
            collections=tuple(
                name.strip() for name in given.get("collections", ",".join(COLLECTIONS)).split(",")
            ),
            skim=_choice(given, "skim", ("false", "true")) == "true",
            target_bytes=_number(given, "target_partition_mb", 128) << 20,
            classes=tuple(
                name.strip() for name in given.get("classes", ",".join(CLASSES)).split(",")
            ),
            skip_bad=_choice(given, "bad_files", ("fail", "skip")) == "skip",
            access=access,
        )


class DelphesSource(DataSource):
    """The format."""

    @classmethod
    def name(cls) -> str:
        """Of the format."""
        return "delphes"

    def schema(self) -> str:
        """All columns of the collections asked for."""
        chosen = Options.parse(self.options).collections
        unknown = [name for name in chosen if name not in COLLECTIONS]
        if unknown:
            raise ConfigError(
                f"delphes: unknown collection {unknown[0]!r}, allowed are {', '.join(COLLECTIONS)}. For others give a schema."
            )
        flat = [f"{name} {_SQL[kind]}" for name, kind in EVENT_COLUMNS.items()]
        return ", ".join(
            flat + [f"{name} array<struct<{_struct(COLLECTIONS[name])}>>" for name in chosen]
        )

    def reader(self, schema: StructType) -> DataSourceReader:
        """A reader of ``schema``'s columns."""
        return _Reader(Options.parse(self.options), schema)


class _Partition(InputPartition):
    def __init__(self, splits: tuple[EntryRange, ...]) -> None:
        super().__init__(splits)
        self.splits = splits


class _Reader(DataSourceReader):
    def __init__(self, options: Options, schema: StructType) -> None:
        self.options, self.schema = options, schema
        self.wanted = {
            field.name: _fields(field) for field in schema if field.name not in EVENT_COLUMNS
        }

    def partitions(self) -> Sequence[InputPartition]:
        files = list_files(self.options.path, self.options.access.timeout_s)
        if not files:
            raise DataError(f"{self.options.path}: no ROOT files here")
        named = [replace(file, class_name=_class_of(file.path)) for file in files]
        return [
            _Partition(task)
            for task in pack(plan(named, self.options.target_bytes), self.options.target_bytes)
        ]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, _Partition)
        wanted = _with_cuts(self.wanted) if self.options.skim else self.wanted
        schema = to_arrow_schema(self.schema)
        for split in partition.splits:
            reader = RangeReader(split, wanted or _CHEAPEST, self.options.access)
            for piece in reader.chunks():
                if piece.events is None:
                    self._bad(split, piece.reason)
                else:
                    yield from self._table(piece, reader, schema).to_batches()
            if reader.unreadable:
                self._bad(split, reader.unreadable)

    def _bad(self, split: EntryRange, reason: str) -> None:
        if not self.options.skip_bad:
            raise DataError(
                f"{split.file.path}: {reason}. Remove it, or read what can be read with option bad_files=skip."
            )

    def _table(self, piece: Chunk, reader: RangeReader, schema: pa.Schema) -> pa.Table:
        assert piece.events is not None
        assert reader.uuid is not None
        events, entries = piece.events, np.arange(piece.start, piece.stop, dtype=np.int64)
        if self.options.skim:
            passed = skim.has_lepton(events) & skim.is_finite(events)
            events, entries = skim.drop_soft(events[passed]), entries[passed]
        file = reader.range.file
        label = (
            self.options.classes.index(file.class_name)
            if file.class_name in self.options.classes
            else -1
        )
        columns = event_columns(file, label, reader.uuid, entries)
        return to_arrow(events, columns, schema)


_CHEAPEST = {"MissingET": {"MET": "float32"}}
"""Read to count entries when a schema names no collection."""


def _class_of(path: str) -> str:
    return PurePosixPath(path).parent.name


def _with_cuts(wanted: Wanted) -> Wanted:
    """What the skim looks at, too."""
    cuts = dict.fromkeys(skim.LEPTONS, "PT") | {
        name: field for name, (field, _) in skim.SOFT.items() if name in wanted
    }
    return {
        **wanted,
        **{name: {field: "float32", **wanted.get(name, {})} for name, field in cuts.items()},
    }


def _fields(field: StructField) -> dict[str, str]:
    """Fields and types of a column of a user's schema."""
    kind = field.dataType
    if isinstance(kind, ArrayType) and isinstance(kind.elementType, StructType):
        types = {
            child.name: _KINDS.get(child.dataType.simpleString()) for child in kind.elementType
        }
        wrong = [name for name, known in types.items() if known is None]
        if types and not wrong:
            return {name: known for name, known in types.items() if known is not None}
    raise ConfigError(
        f"delphes: column {field.name!r} is {kind.simpleString()}; allowed are {', '.join(EVENT_COLUMNS)} and collections as "
        f"array<struct<...>> of {', '.join(_KINDS)}"
    )


def _struct(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {_SQL[kind]}" for name, kind in fields.items())


def _choice(given: Mapping[str, str], name: str, allowed: Sequence[str]) -> str:
    value = given.get(name, allowed[0]).lower()
    if value not in allowed:
        raise ConfigError(f"delphes: option {name} is {value!r}, allowed are {', '.join(allowed)}")
    return value


def _number(given: Mapping[str, Any], name: str, default: int) -> int:
    value = given.get(name, str(default))
    if not value.isdecimal() or (name.startswith("target") and int(value) == 0):
        raise ConfigError(f"delphes: option {name} must be a whole number, got {value!r}")
    return int(value)
