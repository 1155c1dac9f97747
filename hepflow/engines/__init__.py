"""A SparkSession, a Java, a Dask client. Knows no stage."""
