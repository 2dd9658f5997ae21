"""Sweeps: many runs over batch sizes, seeds and budgets, shared by many jobs."""
