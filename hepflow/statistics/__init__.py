"""Arrays in, numbers with errors out; numbers as text. Reads no files and draws no plots."""
