"""The effective batch: which images, in which micro-batch, on which rank."""
