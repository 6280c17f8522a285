"""Image classification: its settings, its data, its loss, and the named runs of the paper."""
