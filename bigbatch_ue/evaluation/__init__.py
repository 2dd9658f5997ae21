"""Does it protect? Target networks trained on clean, control and protected images."""
