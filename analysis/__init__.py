"""Instability curves: how protection varies with the effective batch, and how certain that is."""
