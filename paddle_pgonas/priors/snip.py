"""SNIP (arXiv 1810.02340): how strongly the loss reacts when single weights are removed."""

from __future__ import annotations

from paddle_pgonas.priors.first_pass import FirstPass


def snip(seen: FirstPass) -> float:
    """Sum over the weights w of ``|w dL/dw|``.

    This is the connection sensitivity of section 4.1 without its normalisation, which would make the sum 1, as arXiv 2101.08134
    (section 3.2) uses it for networks.
    """
    return sum(float((weight * gradient).abs().sum()) for weight, gradient in zip(seen.weights, seen.gradients, strict=True))
