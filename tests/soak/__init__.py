"""Long tests of what goes wrong: `python -m tests.soak` starts them."""
