"""Measurements behind ``tools/benchmark.py``: each compares two ways in one run and reports their ratio."""
