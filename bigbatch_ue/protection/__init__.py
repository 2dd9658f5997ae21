"""Protected data sets: perturbations added to images, and the visibility of the change."""
