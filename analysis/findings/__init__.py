"""Findings of a table: fits, recommendations, predicted critical batch sizes."""
