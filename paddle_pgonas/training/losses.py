"""The losses of a step, each the mean over the batch."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F


def cross_entropy(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    """Cross-entropy of logits [N, C] with labels int64 [N]."""
    return F.cross_entropy(logits, labels)


def soft_cross_entropy(logits: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """Cross-entropy of logits [N, C] with the teacher's probabilities [N, C] (temperature 1)."""
    return -(teacher * F.log_softmax(logits, axis=-1)).sum(-1).mean()


def rank_hinge(loss_better: paddle.Tensor, loss_worse: paddle.Tensor) -> paddle.Tensor:
    """Pairwise rank loss: by how much the subnet with the better prior has the higher loss, 0 if it has not."""
    return F.relu(loss_better - loss_worse)
