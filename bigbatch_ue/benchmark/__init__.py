"""How fast: speed, memory and traffic of optimizer steps."""
