"""The planner: what a sweep can find, before it is run."""
