"""Export: one subnet as weights, record and inference model, checked against the scorer that ranked it."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
