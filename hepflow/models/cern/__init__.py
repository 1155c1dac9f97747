"""The nets that SparkDLTrigger published: read from their files, and run with NumPy."""
