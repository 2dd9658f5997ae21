"""Statistical fits of accuracy and instability against batch size."""
