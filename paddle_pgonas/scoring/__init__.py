"""Scoring: every candidate with the supernet's weights, along a prefix tree. All modules but ``tree`` need Paddle."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
