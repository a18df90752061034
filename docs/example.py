# %% [markdown]
# # From handwritten digits to an exported subnet
# Runs anywhere in half a minute on one core: `pip install ".[cpu]"`, then `python example.py [FOLDER]`; or cell by cell in an
# editor that knows `# %%`. The training is far too short to show anything but how things are called.

# %%
import sys
from pathlib import Path

import numpy as np

import paddle_pgonas as pg

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
changes = [f"output_dir={folder}", "train.epochs=1", "data.val_limit=100"]
config = pg.load_config(pg.CONFIGS / "mini/digits.yaml", changes)
space = config.search_space

# %% Priors are formulas: nothing is built, Paddle is not even loaded.
zen = config.prior("zen")
candidates = pg.sample_candidates(space, count=20, seed=0)
pg.write_scores(folder / "candidates.json", candidates, [0.0] * len(candidates))
pg.write_scores(folder / "zen.json", candidates, [zen(candidate.arch) for candidate in candidates])

# %% Train the supernet: one PGONAS run, as tools/train_supernet.py does it.
weights = pg.train(config)

# %% Score: a few architectures as numbers, or a whole candidate file as a submission.
largest, smallest = pg.score(config, weights, [space.largest, space.smallest])
print(f"largest subnet: top-1 {largest:.3f}, smallest: {smallest:.3f}")
pg.write_submission(config, weights, folder / "candidates.json", folder / "submission.json")

# %% Compare the submission with the prior: Pearson, Kendall tau, Spearman.
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
