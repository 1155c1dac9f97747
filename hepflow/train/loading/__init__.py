"""A feature store -> batches: order, reading and padding, without a training loop."""
