"""ROOT files -> awkward events. Knows neither Spark nor a stage."""
