"""hepflow: from Delphes ROOT files to a trained event-topology trigger, on Spark, Dask and Lightning."""
