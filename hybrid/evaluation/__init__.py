"""Evaluation: public edit benchmarks asked of the memory, of its rivals, and of the parametric editors. Start with `run.py`."""
