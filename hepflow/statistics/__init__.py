"""Arrays in, numbers with errors out. Reads no files and draws no plots."""
