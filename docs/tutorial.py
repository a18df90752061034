# %% [markdown]
# # From handwritten digits to an exported subnet
# One-shot architecture search trains one *supernet*, whose parts are the networks of a search space. It then ranks these
# *subnets* by the accuracy that they reach with the supernet's weights. This notebook trains a small supernet, scores 48 subnets,
# compares their ranks with those of stand-alone trainings, and exports one subnet, in one to three minutes on one core.
#
# It needs a checkout of the project with its environment (`make setup`), and downloads nothing.

# %%
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import paddle_pgonas as pg

demo = pg.CONFIGS.parent / "studies" / "demo"
folder = Path("runs/tutorial")

# %% [markdown]
# ## Images
# scikit-learn brings 1,797 handwritten digits of 8x8 pixels. With noise they are so hard that larger networks do better. 1,297 of
# them are for training, each with eight different noises, and the other 500 for scoring, with four.

# %%
subprocess.run([sys.executable, demo / "make_images.py", folder / "images"], check=True, capture_output=True)
shown = [Image.open(min((folder / "images" / "val" / str(digit)).iterdir())) for digit in range(10)]
_, axes = plt.subplots(1, 10, figsize=(8, 1))
for axis, image in zip(axes, shown, strict=True):
    axis.imshow(image, cmap="gray")
    axis.axis("off")
plt.show()

# %% [markdown]
# ## A search space, and a truth
# The *code* of a subnet says how many blocks each of its three stages has and how wide they are. For 48 random codes the project
# keeps a *truth*: the mean accuracy of 16 trainings of that subnet alone. A supernet is to replace such trainings.

# %%
space = pg.load_space(demo / "space.yaml")
truth = pg.read_scores(demo / "truth.json", space)
archs = [space.parse(code) for code in truth]
macs = [pg.macs(arch, image_size=8, num_classes=10) for arch in archs]
print(f"{space.size:,} subnets; top-1 accuracy of {len(truth)}: {min(truth.values()):.3f} to {max(truth.values()):.3f}")
print(f"{archs[0]} has {archs[0].depths} blocks and takes {macs[0]:,} multiply-accumulates for an image")

# %% [markdown]
# ## Train
# The largest network is trained alone first, shorter than those of the truth below, so it is less accurate than many of them.

# %%
options = {"data.root": folder / "images", "output_dir": folder}
largest = folder / "largest.safetensors"
accuracy = pg.train_standalone(pg.load_config(demo / "largest.yaml", options), space.largest, largest)
print(f"the largest network: top-1 {accuracy:.3f}")

# %% [markdown]
# The supernet starts from its weights and learns from its answers. Smaller depths and widths join in phases, which is known as
# progressive shrinking. `overwrite=True` begins anew where a run exists; `resume=True` would continue it.

# %%
options |= {"model.pretrained": largest, "method.teacher": largest}
config = pg.load_config(demo / "supernet.yaml", options)
weights = pg.train(config, overwrite=True)

# %% [markdown]
# ## Score and compare
# Every subnet classifies the images for scoring with its part of the supernet's weights. Its BatchNorm statistics are measured
# anew over some training images.

# %%
scores = dict(zip(truth, pg.score(config, weights, archs), strict=True))
agreement = {"supernet": pg.correlate(scores, truth)}
print(agreement["supernet"])

# %% [markdown]
# Kendall tau looks at pairs of subnets: it is 1 if scores and truth agree on which is the better one of every pair, and 0 if they
# agree on as many pairs as they disagree on. In brackets is the 95 % interval, which says how much tau depends on the choice of
# these 48. In the picture a perfect ranking would lie on the line. Nothing can be expected to do so, as the truth has errors,
# too: exact accuracies would reach a tau of .88 with it.


# %%
def ranks(values):
    """1 for the best."""
    return len(values) - np.argsort(np.argsort(list(values)))


figure, axis = plt.subplots(figsize=(4.4, 3.6))
axis.plot([1, 48], [1, 48], color="lightgray")
points = axis.scatter(ranks(truth.values()), ranks(scores.values()), c=np.array(macs) / 1000, s=18)
axis.set(xlabel="rank in the truth", ylabel="rank by the supernet")
figure.colorbar(points, label="thousand multiply-accumulates")
plt.show()

# %% [markdown]
# ## Priors
# A prior predicts from the architecture alone, without any training: its multiply-accumulates (FLOPs), its parameters, or the
# Zen-score, which says how strongly a random network reacts to its input. A prior of your own is a function of an architecture.
# This one counts channels, and was not chosen by its result.


# %%
def channels(arch):
    return sum(block.c_mid + block.c_out for block in arch.blocks)


for name in ("flops", "params", "zen"):
    prior = pg.make_prior(name, space, image_size=8, num_classes=10)
    agreement[name] = pg.correlate({arch: prior(arch) for arch in archs}, truth)
agreement["channels"] = pg.correlate({arch: channels(arch) for arch in archs}, truth)

_, axis = plt.subplots(figsize=(5, 2.2))
for row, (name, found) in enumerate(agreement.items()):
    tau, low, high = found.kendall
    print(f"{name:9} Kendall tau {found.kendall}")
    axis.errorbar(tau, -row, xerr=[[tau - low], [high - tau]], fmt="o", capsize=3)
axis.set(yticks=range(0, -len(agreement), -1), yticklabels=agreement, xlabel="Kendall tau with the truth", xlim=(0, 1))
plt.show()

# %% [markdown]
# ## Export
# The subnet with the best score among the cheaper half becomes a model of its own. Its weights are those of the supernet, so its
# accuracy here is its score. The export compares its answers with those of the supernet's scorer.

# %%
cheap = [code for code, cost in zip(truth, macs, strict=True) if cost <= np.median(macs)]
best = max(cheap, key=lambda code: scores[code])
record = pg.export(config, weights, space.parse(best), folder / "best")
difference = record["parity"]["paddle.inference / scorer"]["difference"]
print(f"{best}: score {scores[best]:.3f}, truth {truth[best]:.3f}; largest difference of answers {difference:.0e}")

# %% [markdown]
# The exported model needs no supernet. It takes normalised images and gives a number for each class; the largest is its answer.
# With so much noise, and with weights that it shares with all others, half of these ten are wrong.

# %%
network = pg.open_inference_model(folder / "best")
pixels = np.stack([np.asarray(image.convert("RGB")) / 255 for image in shown])
normalised = (pixels - config.data.mean) / config.data.std
answers = network(normalised.transpose(0, 3, 1, 2).astype(np.float32)).argmax(1)
_, axes = plt.subplots(1, 10, figsize=(8, 1.2))
for digit, axis in enumerate(axes):
    axis.imshow(shown[digit], cmap="gray")
    axis.set_title(answers[digit], color="green" if answers[digit] == digit else "red")
    axis.axis("off")
plt.show()

# %% [markdown]
# ## What this shows, and what not
# The scores of one supernet rank these subnets far better than chance. But the intervals of the supernet and of FLOPs overlap
# widely: 48 subnets, one seed and noisy digits do not show that the training was worth it, and say nothing about ImageNet. The
# project's [studies](../studies/README.md) compare methods on larger data. To go on, put your own images, space or prior into the
# cells above; the command lines do the same work for tens of thousands of candidates.
