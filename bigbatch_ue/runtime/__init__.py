"""This process: errors, signals, console, device, memory, random numbers, ranks."""
