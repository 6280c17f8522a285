"""Measures what GC costs (``python -m examples.benchmarks.overhead``), and compares other ways to
compute Φ with the plain one (``python -m examples.benchmarks.alternatives``)."""
