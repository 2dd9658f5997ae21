"""Run folders to one table."""
