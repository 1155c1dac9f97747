"""User options, and how command lines and YAML are parsed. Imports no engine and no stage."""
