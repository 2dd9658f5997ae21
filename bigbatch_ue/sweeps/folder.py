"""Names in the folder of a sweep."""

SPECIFICATION = "sweep.yaml"
"""The resolved specification."""
PILOT = "pilot"
"""Folder of the pilot's runs; they are no part of the sweep's curves."""
STRENGTHS = "strengths.json"
"""The strengths that the pilot has chosen."""
