"""What the truth shows so far: spread, noise between seeds, ceiling of Kendall tau (simulated), correlation with the priors.

python benchmarks/track_shaped/summary.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddle_pgonas.arch import MINI_THIN, Arch
from paddle_pgonas.correlation import kendall, pearson
from paddle_pgonas.cost import macs, params
from paddle_pgonas.submission import read_candidates, read_scores
from paddle_pgonas.zen import zen_score

HOME, CLASSES = Path(__file__).resolve().parent, 10
PRIORS = {
    "blocks": lambda arch: sum(arch.depths),
    "Zen-score": lambda arch: zen_score(arch),
    "FLOPs": lambda arch: macs(arch, num_classes=CLASSES),
    "parameters": lambda arch: params(arch, CLASSES),
}


def ceiling(spread: float, noise: float, count: int = 96, draws: int = 2000) -> float:
    """Kendall tau of exact accuracies of this spread with a truth that has this noise; simulated with normal values."""
    rng = np.random.default_rng(0)
    exact = rng.normal(0, spread, (draws, count))
    noisy = exact + rng.normal(0, noise, (draws, count))
    first, second = np.triu_indices(count, 1)
    return float((np.sign(exact[:, first] - exact[:, second]) * np.sign(noisy[:, first] - noisy[:, second])).mean())


def main() -> None:
    """Print the figures."""
    archs = [entry.arch for entry in read_candidates(HOME / "candidates.json", MINI_THIN)]
    known = [read_scores(path, MINI_THIN) for path in sorted(HOME.glob("results/truth-seed?.json"))]
    print("trained:", ", ".join(f"seed {seed}: {len(accs)} of {len(archs)}" for seed, accs in enumerate(known)))
    for seed, accs in enumerate(known):
        describe(f"seed {seed}", [arch for arch in archs if arch.code in accs], [accs])
    both = [arch for arch in archs if all(arch.code in accs for accs in known)]
    if len(known) > 1 and len(both) > 2:
        truth = np.array([[accs[arch.code] for arch in both] for accs in known])
        seeds = len(known)
        noise = float(np.sqrt(truth.var(0, ddof=1).mean()))
        observed = float(truth.mean(0).std(ddof=1))
        exact = max(observed**2 - noise**2 / seeds, 0) ** 0.5
        describe(f"mean of {seeds} seeds", both, known)
        print(f"noise of one seed {100 * noise:.2f} points; spread without it {100 * exact:.2f}")
        for count in range(1, seeds + 3):
            print(f"ceiling of tau with {count} seeds (simulated): {ceiling(exact, noise / count**0.5):.3f}")


def describe(name: str, archs: list[Arch], truth: list[dict[str, float]]) -> None:
    """Range, spread and correlation with what is known without training."""
    if len(archs) < 3:
        return
    accs = np.array([np.mean([one[arch.code] for one in truth]) for arch in archs])
    print(f"{name}: {len(archs)} subnets, {accs.min():.4f} to {accs.max():.4f}, spread {100 * accs.std(ddof=1):.2f} points")
    for prior, function in PRIORS.items():
        values = np.array([function(arch) for arch in archs], dtype=float)
        print(f"    {prior:10} Kendall tau {kendall(accs, values):+.3f}, Pearson {pearson(accs, values):+.3f}")


if __name__ == "__main__":
    main()
