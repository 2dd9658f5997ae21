"""Findings of a table: fits, recommendations and predicted critical batches, in words and files."""
