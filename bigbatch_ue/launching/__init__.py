"""Ranks and jobs: engines by name, the ranks of a machine, and jobs of Slurm and LSF."""
