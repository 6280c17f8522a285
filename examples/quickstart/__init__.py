"""A comparison that runs in a minute or two: a small network with Gradient Centralization and without."""
