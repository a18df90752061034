"""Measurements behind ``tools/benchmark.py``: each compares two implementations in one run and reports their ratio."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
