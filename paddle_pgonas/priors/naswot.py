"""NASWOT (arXiv 2006.04647): how differently the images of a batch switch the network's ReLUs."""

from __future__ import annotations

import numpy as np

from paddle_pgonas.priors.first_pass import FirstPass


def naswot(seen: FirstPass) -> float:
    """``log |K|``, where ``K[i, j]`` counts the activation functions that images i and j both switch on, or both off.

    Section 3, equations 1 and 2: N_A minus the Hamming distance of the images' binary codes. A unit is on if its input is
    positive, whatever the activation function. Minus infinity for a batch with two equal images.
    """
    kernel = np.zeros([len(seen.before[0])] * 2)
    for values in seen.before:
        on = (values > 0).astype("float32").flatten(1)
        kernel += ((on @ on.T) + (1 - on) @ (1 - on).T).numpy()
    return float(np.linalg.slogdet(kernel)[1])
