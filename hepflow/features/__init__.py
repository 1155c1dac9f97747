"""Parquet events -> jagged Zarr features, with Dask and Awkward Array."""
