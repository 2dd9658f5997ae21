"""The run folder: configuration, metrics, checkpoints, result."""
