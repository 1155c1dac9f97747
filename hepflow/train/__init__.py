"""Training on the store with PyTorch Lightning."""
