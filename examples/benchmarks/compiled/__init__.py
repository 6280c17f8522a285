"""What the compilers for TPU and GPU make of GC, without having a TPU or a GPU.

``python -m examples.benchmarks.compiled``
"""
