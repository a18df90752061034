"""Scoring: every candidate with the supernet's weights, along a prefix tree that shares common activations.

All modules but :mod:`paddle_pgonas.scoring.tree`, which plans the work, need Paddle.
"""

from paddle_pgonas.runtime import prepare_process

prepare_process()
