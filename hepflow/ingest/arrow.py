"""Awkward events <-> the Arrow types of the Parquet dataset: flat event columns, then one ``list<struct>`` a collection."""

from collections.abc import Mapping

import awkward as ak
import numpy as np
import pyarrow as pa

from hepflow.identity import event_ids
from hepflow.ingest.delphes import Wanted
from hepflow.ingest.splits import SourceFile
from hepflow.schema import COLLECTIONS, EVENT_COLUMNS

TYPES = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}


def arrow_schema(wanted: Wanted = COLLECTIONS, columns: Mapping[str, str] = EVENT_COLUMNS) -> pa.Schema:
    """Schema of the dataset. Nothing in it is ever null."""
    flat = [pa.field(name, TYPES[kind], nullable=False) for name, kind in columns.items()]
    lists = [
        pa.field(name, pa.list_(pa.field("element", _struct(fields), nullable=False)), nullable=False) for name, fields in wanted.items()
    ]
    return pa.schema(flat + lists)


def event_columns(file: SourceFile, label: int, uuid: bytes, entries: np.ndarray) -> dict[str, pa.Array]:
    """The flat columns of `hepflow.schema.EVENT_COLUMNS`.

    Parameters
    ----------
    file : SourceFile
    label : int
        Of its class.
    uuid : bytes
        Its identity, which a copy keeps.
    entries : (n,) int64
        Rows of its tree.

    Returns
    -------
    dict
        Name -> (n,) array.
    """
    n = len(entries)
    return {
        "sample": pa.repeat(file.class_name, n),
        "label": pa.repeat(pa.scalar(label, pa.int32()), n),
        "event_id": pa.array(event_ids(uuid, entries)),
        "file": pa.repeat(file.name, n),
        "entry": pa.array(entries),
    }


def to_arrow(events: ak.Array, columns: Mapping[str, pa.Array], schema: pa.Schema) -> pa.Table:
    """A table of ``schema``.

    Parameters
    ----------
    events : (n,) records with one list of structs a collection
    columns : mapping
        The flat columns, (n,) each.
    schema : pa.Schema
        Of `arrow_schema`; what it does not name is left out.
    """
    arrays = [columns[field.name] if field.name in columns else _lists(events[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _struct(fields: Mapping[str, str]) -> pa.StructType:
    return pa.struct([pa.field(name, TYPES[kind], nullable=False) for name, kind in fields.items()])


def _lists(column: ak.Array, kind: pa.ListType) -> pa.ListArray:
    packed = ak.to_packed(column).layout
    struct = kind.value_type
    values = [pa.array(ak.to_numpy(packed.content[field.name])) for field in struct]
    content = pa.StructArray.from_arrays(values, fields=list(struct))
    return pa.ListArray.from_arrays(packed.offsets.data.astype(np.int32), content, type=kind)
