"""Unlearnable clusters at any effective batch size, the same answer on every engine."""

__version__ = "0.1.0"
