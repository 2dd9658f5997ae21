"""Training the generator bank on any engine."""
