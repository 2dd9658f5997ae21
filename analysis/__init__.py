"""Instability curves: how protection varies with the effective batch, and how sure that is."""
