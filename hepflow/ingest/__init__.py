"""Delphes ROOT files to Parquet, on Spark."""
