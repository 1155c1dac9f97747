"""Rows between Spark and Python. Light to import: Spark starts three programs to open a source."""

import pyarrow as pa


def arrow_of(ddl: str) -> pa.Schema:
    """Return the Arrow schema of flat columns in Spark's notation."""
    kinds = {"string": "string", "int": "int32", "bigint": "int64", "binary": "binary"}
    columns = (column.split(" ") for column in ddl.split(", "))
    return pa.schema([(name, pa.type_for_alias(kinds[kind])) for name, kind in columns])
