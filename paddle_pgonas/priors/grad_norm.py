"""GradNorm (arXiv 2101.08134, section 3.1): the size of the first gradients."""

from __future__ import annotations

from paddle_pgonas.priors.first_pass import FirstPass


def grad_norm(seen: FirstPass) -> float:
    """Sum over the layers of the Euclidean norm of their weight's gradient."""
    return sum(float(gradient.square().sum()) ** 0.5 for gradient in seen.gradients)
