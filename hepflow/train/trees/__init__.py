"""Decision trees on the high-level features, trained into run folders like those of the nets."""
