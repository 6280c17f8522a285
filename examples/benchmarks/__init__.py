"""What GC costs: ``python -m examples.benchmarks.overhead``, and why Φ is one plain line:
``python -m examples.benchmarks.alternatives``."""
