"""Perturbations onto images: protected data sets and how visible the change is."""
