"""The classifiers and the layers they are built from."""
