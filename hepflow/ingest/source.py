"""``spark.read.format("delphes").load(path)``: Delphes ROOT files as a Spark table.

One row is an event, one column per collection is an array of structs:

>>> from hepflow.ingest.source import register
>>> register(spark)
>>> delphes = spark.read.format("delphes").option("collections", "Jet,MissingET")
>>> delphes.load("data/raw").createOrReplaceTempView("events")
>>> spark.sql("SELECT sample, avg(size(filter(Jet, j -> j.PT > 30))) FROM events GROUP BY sample")

Spark does not pass the columns of a query to a Python data source: it reads what the schema names.
So name few, by ``collections`` or by a schema of your own, which may name any collection and field
of the files: ``spark.read.schema("entry bigint, Jet array<struct<PT: float>>")``.

Options: ``tree`` (Delphes); ``collections`` (all of hepflow.schema); ``skim`` (false: every event;
true: as ingest); ``target_partition_mb`` (128); ``classes`` (those of hepflow.schema; their order
gives ``label``, -1 for other folders); ``bad_files`` (fail, or skip to leave out unreadable
entries); ``retries`` and ``timeout_s`` as in ingest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import ArrayType, StructField, StructType

from hepflow.data.events import event_columns, to_arrow
from hepflow.errors import ConfigError, DataError
from hepflow.physics import skim
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import EntryRange, pack, plan
from hepflow.reading.reader import Access, Chunk, RangeReader
from hepflow.schema import CLASSES, COLLECTIONS, EVENT_COLUMNS, TREE

_KINDS = {"float": "float32", "double": "float64", "int": "int32", "bigint": "int64"}
_SQL = {**{kind: sql for sql, kind in _KINDS.items()}, "string": "string"}
_DEFAULTS = {"path": "", "tree": TREE, "collections": ",".join(COLLECTIONS), "skim": "false"}
_DEFAULTS |= {"target_partition_mb": "128", "classes": ",".join(CLASSES), "bad_files": "fail"}
_DEFAULTS |= {"retries": "3", "timeout_s": "60"}
_CHOICES = {"skim": ("false", "true"), "bad_files": ("fail", "skip")}
_CHEAPEST = {"MissingET": {"MET": "float32"}}  # to count entries if a schema names no collection


def register(spark: SparkSession) -> None:
    """Add the format ``delphes`` to a session."""
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
        """Return the options of the user's strings."""
        unknown = sorted(set(given) - set(_DEFAULTS))
        if unknown or "path" not in given:
            wrong = f"unknown option {unknown[0]!r}" if unknown else "no path given"
            raise ConfigError(f"delphes: {wrong}. The options are {', '.join(_DEFAULTS)}.")
        values = {**_DEFAULTS, **given}
        numbers = {}
        for name, allowed in _CHOICES.items():
            values[name] = values[name].lower()
            if values[name] not in allowed:
                wrong = f"option {name} is {values[name]!r}, allowed are {', '.join(allowed)}"
                raise ConfigError(f"delphes: {wrong}.")
        for name, least in {"target_partition_mb": 1, "retries": 0, "timeout_s": 0}.items():
            if not values[name].isdecimal() or int(values[name]) < least:
                wanted = f"must be a whole number of at least {least}, got {values[name]!r}"
                raise ConfigError(f"delphes: option {name} {wanted}.")
            numbers[name] = int(values[name])
        return cls(
            path=values["path"],
            collections=tuple(name.strip() for name in values["collections"].split(",")),
            skim=values["skim"] == "true",
            target_bytes=numbers["target_partition_mb"] << 20,
            classes=tuple(name.strip() for name in values["classes"].split(",")),
            skip_bad=values["bad_files"] == "skip",
            access=Access(values["tree"], numbers["retries"], float(numbers["timeout_s"])),
        )


class DelphesSource(DataSource):
    """The format."""

    @classmethod
    def name(cls) -> str:
        """Return the name of the format."""
        return "delphes"

    def schema(self) -> str:
        """Return all columns of the chosen collections."""
        columns = [f"{name} {_SQL[kind]}" for name, kind in EVENT_COLUMNS.items()]
        for name in Options.parse(self.options).collections:
            if name not in COLLECTIONS:
                allowed = f"allowed are {', '.join(COLLECTIONS)}; for others give a schema"
                raise ConfigError(f"delphes: unknown collection {name!r}, {allowed}.")
            fields = (f"{field}: {_SQL[kind]}" for field, kind in COLLECTIONS[name].items())
            columns.append(f"{name} array<struct<{', '.join(fields)}>>")
        return ", ".join(columns)

    def reader(self, schema: StructType) -> DataSourceReader:
        """Return a reader of the columns of ``schema``."""
        return _Reader(Options.parse(self.options), schema)


class _Reader(DataSourceReader):
    def __init__(self, options: Options, schema: StructType) -> None:
        self.options, self.schema = options, schema
        self.wanted = {f.name: _fields(f) for f in schema if f.name not in EVENT_COLUMNS}
        if options.skim:  # also read what the cuts need
            cuts = dict.fromkeys(skim.LEPTONS, "PT")
            cuts |= {name: cut for name, (cut, _) in skim.SOFT.items() if name in self.wanted}
            for name, cut in cuts.items():
                self.wanted[name] = {cut: "float32", **self.wanted.get(name, {})}

    def partitions(self) -> Sequence[InputPartition]:
        path, target = self.options.path, self.options.target_bytes
        files = list_files(path, self.options.access.timeout_s)
        if not files:
            raise DataError(f"{path}: no ROOT files here. Give the folder or the file to read.")
        named = [replace(file, class_name=PurePosixPath(file.path).parent.name) for file in files]
        return [InputPartition(task) for task in pack(plan(named, target), target)]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        schema = to_arrow_schema(self.schema)
        for entries in partition.value:
            reader = RangeReader(entries, self.wanted or _CHEAPEST, self.options.access)
            for chunk in reader.chunks():
                if chunk.events is None:
                    self._bad(entries, chunk.reason)
                else:
                    yield from self._table(chunk, reader, schema).to_batches()
            if reader.unreadable:
                self._bad(entries, reader.unreadable)

    def _bad(self, entries: EntryRange, reason: str) -> None:
        if not self.options.skip_bad:
            raise DataError(f"{entries.file.path}: {reason}. Remove it, or set bad_files=skip.")

    def _table(self, chunk: Chunk, reader: RangeReader, schema: pa.Schema) -> pa.Table:
        assert chunk.events is not None
        assert reader.uuid is not None
        events, rows = chunk.events, np.arange(chunk.start, chunk.stop, dtype=np.int64)
        if self.options.skim:
            passed = skim.has_lepton(events) & skim.is_finite(events)
            events, rows = skim.drop_soft(events[passed]), rows[passed]
        file, classes = reader.range.file, self.options.classes
        label = classes.index(file.class_name) if file.class_name in classes else -1
        columns = event_columns(file.class_name, label, file.name, reader.uuid, rows)
        return to_arrow(events, columns, schema)


def _fields(field: StructField) -> dict[str, str]:
    """Return the fields of a column of a user's schema, and their types."""
    kind = field.dataType
    if isinstance(kind, ArrayType) and isinstance(kind.elementType, StructType):
        types = {child.name: child.dataType.simpleString() for child in kind.elementType}
        if types and all(sql in _KINDS for sql in types.values()):
            return {name: _KINDS[sql] for name, sql in types.items()}
    allowed = f"{', '.join(EVENT_COLUMNS)}, and array<struct<...>> of {', '.join(_KINDS)}"
    what = f"column {field.name!r} is {kind.simpleString()}"
    raise ConfigError(f"delphes: {what}; allowed are {allowed}.")
