# %% [markdown]
# # The library in use
# Runs anywhere in half a minute on one core: `pip install ".[cpu]"`, then `python example.py [FOLDER]`; or cell by cell in an
# editor that knows `# %%`. The training is far too short to show anything but how things are called.

# %%
import sys
from pathlib import Path

import numpy as np

import paddle_pgonas as pg

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")

# %% Train, score, compare: here with FLOPs, better with accuracies of stand-alone trainings, pg.read_scores("truth.json", space).
config = pg.load_config("mini/digits.yaml", {"output_dir": folder, "train.epochs": 1, "data.val_limit": 100})
weights = pg.train(config, overwrite=True)
archs = [candidate.arch for candidate in pg.sample_candidates(config.search_space, count=20, seed=0)]
scores = dict(zip(archs, pg.score(config, weights, archs, metric="probability"), strict=True))
print("supernet and FLOPs:", pg.correlate(scores, {arch: pg.macs(arch, 8, 10) for arch in archs}))

# %% Priors need no training, nor Paddle: 100 candidates, compared with a truth, which the supernet's scores stand for here.
space = pg.load_space("mini")
candidates = pg.sample_candidates(space, count=100, seed=0)
truth = {arch.code: score for arch, score in scores.items()}  # it may lack some of them
for name in ("flops", "params", "zen"):
    prior = pg.make_prior(name, space, image_size=8, num_classes=10)
    print(f"{name}:", pg.correlate({candidate.arch: prior(candidate.arch) for candidate in candidates}, truth))

# %% Files, as the command lines write them: candidates, a prior's values, and a submission.
zen = config.prior("zen")
pg.write_scores(folder / "candidates.json", candidates, [0.0] * len(candidates))
pg.write_scores(folder / "zen.json", candidates, [zen(candidate.arch) for candidate in candidates])
pg.write_submission(config, weights, folder / "candidates.json", folder / "submission.json")
comparison = pg.compare([folder / "submission.json", folder / "zen.json"])
print(pg.table(comparison))
pg.write_page(folder / "report.html", comparison)

# %% Search for the best subnet within a million multiply-accumulates.
result = pg.search(config, weights=weights, limits={"macs": 1e6}, population=10, generations=3)
result.write(folder / "front.json")
print(result.summary())

# %% Export it: weights, record, and an inference model whose logits are the scorer's.
record = pg.export(config, weights, result.best.arch, folder / "best")
difference = record["parity"]["paddle.inference / scorer"]["difference"]
print(f"exported; largest difference of logits {difference:.1e}, top-1 {record['top1']['paddle.inference']:.3f}")

# %% Use it.
network = pg.open_inference_model(folder / "best")
print("logits", network(np.zeros((2, 3, config.data.image_size, config.data.image_size), np.float32)).shape)
