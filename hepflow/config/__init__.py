"""What a user may set, and how words and YAML become it. Imports no engine and no stage."""
