"""Scaling tables and plots of benchmark records."""
