"""Evaluation: target networks trained on clean, control and protected images."""
