"""The formats between stages, one module each: its only writer, reader and validator."""
