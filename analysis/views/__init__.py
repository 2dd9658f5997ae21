"""Plots, report pages and TensorBoard curves of findings."""
