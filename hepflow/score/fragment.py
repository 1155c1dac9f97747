"""Parquet files of scores: one per task, whose footer names the entry ranges in it.

The rows of a range follow each other. So the scores of a file that has changed can be taken out,
whatever the record says at that moment.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepflow.data.parquet import read_table, sealed_writer
from hepflow.errors import DataError, one_line
from hepflow.score.scorer import Scorer, Scores
from hepflow.score.tables import DELETE
from hepflow.system.publishing import whole
from hepflow.system.storage import remove

_ABOUT = b"hepflow"


def table_of(scores: Scores, identity: Mapping[str, pa.Array], scorer: Scorer) -> pa.Table:
    """Return the columns of docs/scoring.md."""
    selected, points = scores.selected, scorer.working_points
    columns: dict[str, pa.Array] = {**identity, "selected": pa.array(selected)}
    n_required = len(columns)
    columns["reason"] = pa.array(scores.reason, pa.string(), mask=selected)
    # without a working point there is no decision on events with a score
    columns["decision"] = pa.array(scores.accepted.any(axis=1), mask=selected & (len(points) == 0))
    for point, kept in zip(points, scores.accepted.T, strict=True):
        columns[f"accept_{point.stream}"] = pa.array(kept)
    for kind, values in (("p", scores.probabilities), ("logit", scores.logits)):
        for name, column in zip(scorer.inputs.classes, values.T, strict=True):
            columns[f"{kind}_{name}"] = pa.array(column.astype(np.float32), mask=~selected)
    items = enumerate(columns.items())
    fields = [pa.field(name, each.type, nullable=i >= n_required) for i, (name, each) in items]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def write_scores(
    path: Path,
    tables: Sequence[pa.Table],
    about: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
) -> None:
    """Write scores into a file, whole or not at all; ``rows``: key of each range -> its rows."""
    content = json.dumps({**about, **({} if rows is None else {"ranges": [*rows.items()]})})
    table = pa.concat_tables(tables).replace_schema_metadata({_ABOUT: content})
    with whole(path) as part, sealed_writer(part, table.schema, compression="zstd") as writer:
        writer.write_table(table)


def keep_only(path: Path, keys: Collection[str]) -> None:
    """Take the scores of all other ranges out of a file; without any left it is removed.

    A file of an earlier version has one range, and does not name it.
    """
    if not keys:
        remove(path)
        return
    try:
        table = read_table(path, DELETE)
        about = json.loads(table.schema.metadata[_ABOUT])
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        what = f"not a file of scores, or a damaged one ({one_line(error)[:120]})"
        raise DataError(f"{path}: {what}. {DELETE}") from error
    before = about.pop("ranges", [])
    if all(key in keys for key, _ in before):
        return
    kept, start = [table.slice(0, 0)], 0
    for key, n_rows in before:
        kept += [table.slice(start, n_rows)] if key in keys else []
        start += n_rows
    write_scores(path, kept, about, {key: n_rows for key, n_rows in before if key in keys})
