"""Awkward events -> Arrow tables: flat event columns, then one ``list<struct>`` a collection."""

from collections.abc import Mapping

import awkward as ak
import numpy as np
import pyarrow as pa

from hepflow.data.identity import event_ids
from hepflow.reading.ranges import SourceFile


def event_columns(
    file: SourceFile, label: int, uuid: bytes, entries: np.ndarray
) -> dict[str, pa.Array]:
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
        Such as `hepflow.data.events.arrow_schema`; what it does not name is left out.
    """
    arrays = [
        columns[field.name] if field.name in columns else _lists(events[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _lists(column: ak.Array, kind: pa.ListType) -> pa.ListArray:
    packed = ak.to_packed(column).layout
    struct = kind.value_type
    values = [pa.array(ak.to_numpy(packed.content[field.name])) for field in struct]
    content = pa.StructArray.from_arrays(values, fields=list(struct))
    return pa.ListArray.from_arrays(packed.offsets.data.astype(np.int32), content, type=kind)
