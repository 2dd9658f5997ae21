"""Defaults of the analysis, for its functions and its command line."""

MARGIN = 0.05
"""Difference in accuracy that does not matter."""

DRAWS = 2000
"""Random draws of the noise of each curve."""
