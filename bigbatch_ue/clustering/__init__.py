"""Clusters of images: how they are grouped, what they tell of the labels, and their targets."""
