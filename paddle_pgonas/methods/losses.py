"""Losses that several methods use, each the mean over the batch. Needs Paddle, so the methods import it when they run."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F


def cross_entropy(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    """Cross-entropy of logits [N, C] with labels int64 [N]."""
    return F.cross_entropy(logits, labels)


def soft_cross_entropy(logits: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """Cross-entropy with the teacher's probabilities at temperature 1; logits [N, C]. The loss of PGONAS."""
    return -(F.softmax(teacher, axis=-1) * F.log_softmax(logits, axis=-1)).sum(-1).mean()


def kl_divergence(logits: paddle.Tensor, teacher: paddle.Tensor, temperature: float) -> paddle.Tensor:
    """KL divergence of softened probabilities times the squared temperature, which keeps the scale of the gradients."""
    log_p, log_q = F.log_softmax(teacher / temperature, axis=-1), F.log_softmax(logits / temperature, axis=-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def adaptive_alpha_divergence(
    logits: paddle.Tensor, teacher: paddle.Tensor, low: float = -1.0, high: float = 1.0, clip: float = 5.0
) -> paddle.Tensor:
    """AlphaNet's loss (arXiv 2102.07954): per image the larger of two alpha-divergences, with clipped importance weights.

    A low alpha penalizes overestimated probabilities of the student, a high alpha underestimated ones. The gradient is that of
    the chosen divergence with fixed importance weights. Weights ``(p / q)**alpha`` are formed from differences of
    log-probabilities and clipped before the exponential, so that neither a vanishing p nor a vanishing q divides anything.
    """
    log_q = F.log_softmax(logits, axis=-1)
    q, log_ratio = log_q.detach().exp(), F.log_softmax(teacher, axis=-1) - log_q.detach()
    divergences, surrogates = zip(*(_alpha_divergence(q, log_q, log_ratio, alpha, clip) for alpha in (low, high)), strict=True)
    return paddle.where(divergences[0] > divergences[1], *surrogates).mean()


def _alpha_divergence(
    q: paddle.Tensor, log_q: paddle.Tensor, log_ratio: paddle.Tensor, alpha: float, clip: float
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The divergence per image, and a loss with the same gradient."""
    if alpha == 1:  # the limit is KL(p || q)
        weight = log_ratio.clip(max=math.log(clip)).exp()
        return (q * weight * log_ratio).sum(-1), -(q * weight * log_q).sum(-1)
    weight = (alpha * log_ratio).clip(max=math.log(clip)).exp()
    base = 1 / (alpha * (alpha - 1))
    return (q * (weight - 1) * base).sum(-1), -(q * (weight / alpha + base) * log_q).sum(-1)
