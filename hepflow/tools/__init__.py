"""Commands next to the pipeline. Imported by nobody."""
