"""Consolidation: stable facts move from memory into the weights, verified with the memory off, reversible to the bit.

`run` tells the story; `checks` and `verify` ask, `solver` computes, `live` serves a generation, `removal` takes facts out again.
"""
