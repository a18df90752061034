"""Scoring: every candidate with the supernet's weights, sharing between neighbours all that they have in common.

This package's modules import Paddle where they compute; planning (:mod:`paddle_pgonas.scoring.tree`) does not need it.
"""

from paddle_pgonas.runtime import prepare_process

prepare_process()
