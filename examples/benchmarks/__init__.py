"""Measures what GC costs.

``python -m examples.benchmarks.overhead`` measures it on this machine, ``alternatives`` compares
other ways to compute Φ with the plain one, and ``compiled`` shows what the compilers for TPU and
GPU make of it, without a card.
"""
