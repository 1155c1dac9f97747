"""The training of `hepflow train fit`, on CPU inside Spark executors."""
