"""The configuration of a run: its schema, presets, and how it is read."""
