"""Scoring: every candidate with the supernet's weights, sharing between neighbours all that they have in common.

All modules but :mod:`paddle_pgonas.scoring.tree`, which plans the work, need Paddle.
"""

from paddle_pgonas.runtime import prepare_process

prepare_process()
