"""What GC costs.

``python -m examples.benchmarks.overhead`` measures it on this machine, ``alternatives`` tells why it is
one plain line, and ``compiled`` shows what the compilers for TPU and GPU make of it, without a card.
"""
