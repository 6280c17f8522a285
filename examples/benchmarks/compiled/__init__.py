"""Measures programs that the compilers for TPU and GPU produce, with and without GC. No card is needed.

``python -m examples.benchmarks.compiled``
"""
