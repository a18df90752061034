"""The sections of the configuration: every key with its default, type, range, meaning and use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from paddle_pgonas.priors import TRAINING_PRIORS
from paddle_pgonas.validation import Integer, ListAsTuple, Number, Section, Text, key, one_of

Colour = Annotated[tuple[Number, Number, Number], ListAsTuple]
"""One number each for red, green and blue."""
Range = Annotated[tuple[Integer, Integer], ListAsTuple]
"""The least and the greatest value."""
_YAML_OFF = BeforeValidator(lambda value: "off" if value is False else value)  # YAML 1.1 reads off as false

STRATEGIES = ("uniform", "progressive", "phases", "largest", "sandwich", "fair_sandwich", "pgonas")
"""Built-in values of ``train.strategy``."""

# Those that make use of a key.
TAUGHT = {"strategy": ("uniform", "progressive", "phases", "largest")}
SANDWICHES = {"strategy": ("sandwich", "fair_sandwich", "pgonas")}
PGONAS = {"strategy": ("pgonas",)}
WATCHED = {"watch_images": True}


class Data(Section):
    """Where images come from and what is done to them before the network sees them."""

    source: Literal["folder", "digits"] = "folder"
    """``folder``: ``root/train/<class>/*``, ``root/val/<class>/*``. ``digits``: scikit-learn's handwritten digits."""
    root: Text | None = key(None, free=True, only={"source": ("folder",)})
    """The folder of the images."""
    cache_dir: Text | None = key(None, free=True)
    """Where decoded validation images are kept; null means ``<output_dir>/cache``."""
    image_size: Integer = key(224, at_least=8, at_most=4096)
    """Side of the square that the network sees, in pixels."""
    resize: Integer = key(256, at_least=8, at_most=8192)
    """Evaluation: shorter side before the centre crop (equal to ``image_size`` means no margin)."""
    augment: Literal["crop_flip", "shift_flip", "shift", "none"] = "crop_flip"
    """Training: random resized crop and flip (ImageNet); shift by an eighth at most, with or without flip (small images)."""
    mean: Colour = (0.485, 0.456, 0.406)
    std: Colour = (0.229, 0.224, 0.225)
    workers: Integer = key(4, at_least=0, free=True)
    """Loader processes for training images; 0 loads in the training process."""
    train_limit: Integer | None = key(None, at_least=1)
    """Train with only so many images, taken evenly from the list (so evenly from the classes)."""
    val_limit: Integer | None = key(None, at_least=1, free=True)
    """Score with only so many validation images, taken evenly from the list."""
    max_unreadable: Number = key(0.01, at_least=0, at_most=1, free=True)
    """Images that cannot be read are named and left out, up to this share (rounded up) of those that a job takes."""


class Model(Section):
    """The supernet."""

    num_classes: Integer = key(1000, at_least=2, at_most=1_000_000)
    activation: Literal["relu", "prelu", "swish", "mish", "selu"] = "relu"
    """Activation behind each residual sum; the one inside a block stays ReLU."""
    pretrained: Text | None = None
    """Weights of the full network to start from (.pdparams or .safetensors); null starts from random weights."""
    reorder: bool = key(True, only={"pretrained": True})
    """Sort the inner channels of pretrained blocks by importance, so that narrow subnets inherit the best."""
    bn: Literal["batch", "frozen", "sync"] = "batch"
    """BatchNorm in training: ``batch`` statistics that update the running ones, the same over all processes' images (``sync``),
    or the pretrained ones, ``frozen``."""


class Train(Section):
    """How the supernet is trained."""

    strategy: Annotated[Text, one_of(STRATEGIES, "my_module:MyStrategy")] = "pgonas"
    """``uniform``: random subnets (SPOS, the official baseline). ``progressive``: the same from a space that opens step by step
    (once-for-all); ``phases``: as the challenge's 2nd place opened it. ``largest``: the largest of many random subnets, and every
    third step an unfiltered one as well (the 1st place). ``sandwich``: largest, smallest and random ones. ``fair_sandwich``: the
    random ones are sampled without replacement (FairNAS). ``pgonas``: the sandwich and the rank loss. ``my_module:MyStrategy``:
    your own (docs/extending.md)."""
    epochs: Integer = key(70, at_least=1)
    max_steps: Integer | None = key(None, at_least=1, free=True)
    """Stop after so many steps, whatever the epochs say; the schedules stay those of the whole run."""
    batch_size: Integer = key(256, at_least=1)
    """Images per step and process."""
    accumulate: Integer = key(1, at_least=1)
    """Take each batch in so many micro-batches, one after the other, so that it fits into a small GPU: gradients are averaged,
    BatchNorm and the rank loss see one micro-batch at a time."""
    amp: Annotated[Literal["off", "bf16", "fp16"], _YAML_OFF] = "off"
    """Mixed precision (GPU only); ``fp16`` scales the loss."""
    clip_grad_norm: Number | None = key(None, at_least=1e-6)
    """Scale the gradient down to this norm where it is longer; null leaves it."""
    lr_per_256: Number = key(0.001, at_least=0)
    """Highest learning rate per 256 images of a step's whole batch, all processes together: doubling it doubles the rate."""
    momentum: Number = key(0.9, at_least=0, below=1)
    weight_decay: Number = key(0.0, at_least=0)
    schedule: Literal["cosine", "published", "restarts"] = "cosine"
    """``cosine``: linear warm-up, then cosine to 0, both per step. ``published``: warm-up counted for ``warmup_images`` an
    epoch, then one cosine step per epoch. ``restarts``: the six cosines of the challenge's 2nd place, without a warm-up."""
    warmup_epochs: Number = key(5.0, at_least=0, only={"schedule": ("cosine", "published")})
    warmup_images: Integer = key(1281024, at_least=1, only={"schedule": ("published",)})
    """``published`` only: the images per epoch that the warm-up was counted for (ImageNet's, whatever the data)."""
    draws: Literal["seed", "candidates", "published"] = key("seed", only={"strategy": ("uniform", "sandwich", "pgonas")})
    """Where random subnets come from: ``seed`` and step, each free choice drawn once; the ``candidates`` file, shuffled anew in
    every round; or, as ``published``, the step and epoch alone, in the order of the published PGONAS code (``uniform``: of the
    organisers' baseline)."""
    candidates: Text | None = key(None, only={"draws": ("candidates",)})
    """The candidate file to draw from; those outside ``depth_ranges`` are left out."""
    highest_codes: Annotated[tuple[Integer, ...], ListAsTuple] | None = key(None, only={"draws": ("seed", "candidates")})
    """Highest (narrowest) width code that is drawn, per stage; the sandwich's smallest subnet has these. Track 1's candidates
    keep to [3, 3, 5, 7]; null draws all."""
    depth_ranges: Annotated[tuple[Range, ...], ListAsTuple] | None = key(None, only={"draws": ("seed", "candidates")})
    """Least and greatest depth that is drawn, per stage; null draws all. Scoring with several supernets gives each candidate to
    the first whose ranges hold it."""
    unused_parameters: Literal["zero_gradient", "no_gradient"] = "zero_gradient"
    """Parameters that no step has used yet: weight decay shrinks them from the first step on, as it does all others; or they stay
    as they are until their first use (as published)."""
    random_subnets: Integer = key(2, at_least=0)
    """Random subnets per step: the only ones, or those beside the sandwich's largest and smallest."""
    largest_of: Integer = key(400, at_least=1, only={"strategy": ("largest",)})
    """``largest``: how many subnets are drawn per step, of which the ``random_subnets`` largest are trained."""
    teacher: Text | None = key(None, only=TAUGHT)
    """Weights of a fixed full network to distil from; null trains with labels alone."""
    distillation: Literal["soft_ce", "kl", "alpha"] = key("soft_ce", only=SANDWICHES | {"teacher": True})
    """Soft cross-entropy (as published), KL divergence at ``temperature``, or AlphaNet's adaptive alpha-divergence."""
    temperature: Number = key(1.0, at_least=0.01, only={"distillation": ("kl",)})
    """``kl`` only."""
    label_epochs: Integer = key(0, at_least=0, only=SANDWICHES)
    """Sandwich: first epochs in which the smaller subnets learn from the labels. From random weights the largest has nothing to
    teach, and three losses that hold it where it is slow it down; a pretrained network needs none (as published)."""
    prior: Annotated[Text, one_of(TRAINING_PRIORS, "my_module:my_prior")] = key("flops", only=PGONAS | {"watch_subnets": True})
    """``pgonas``: which number, known without training, says which of two subnets should have the lower loss:
    ``flops``, ``params``, ``zen``, or ``my_module:my_prior``, your own (docs/extending.md)."""
    pairs: Integer = key(2, at_least=1, only=PGONAS)
    """``pgonas``: how many pairs of random subnets per step."""
    pair_distance: Integer = key(0, at_least=0, only=PGONAS)
    """``pgonas``: redraw the second subnet until the codes differ in at least so many digits (33 with Zen-score)."""
    pair_ratio: Number = key(1.0, at_least=1, only=PGONAS)
    """``pgonas``: redraw the pair until one prior is at least so many times the other (1 takes any pair, as published)."""
    rank_gradient: Literal["second", "both", "better"] = key("second", only=PGONAS)
    """``pgonas``: the side of a pair that learns: the one drawn second (as published), both, or the one with the better prior."""
    equal_priors: Literal["skip", "second_worse"] = key("skip", only=PGONAS)
    """``pgonas``: a pair of equal priors is left out, or its second subnet is taken for the worse (as published)."""
    pair_losses: Literal["all_processes", "per_process"] = key("all_processes", only=PGONAS)
    """``pgonas``: whether a pair is in order is decided on the losses over all processes' images, or by each process on its own
    images (as published)."""
    rank_lambda: Literal["warmup", "constant", "sine", "multi_stage"] = key("warmup", only=PGONAS)
    """``pgonas``: the weight of the rank loss over the epochs."""
    stretch_lambda: bool = key(False, only=PGONAS)
    """Go through the published 70 epochs' weights by seventieths of the run, for shorter or longer runs."""
    rank_weight: Number = key(1.0, at_least=0, only=PGONAS)
    """Factor on the rank loss's weight (1 as published)."""
    log_every: Integer = key(10, at_least=1, free=True)
    """Steps between lines of the log."""
    checkpoint_every: Integer = key(1, at_least=1, free=True)
    """Epochs between checkpoints."""
    keep_checkpoints: Integer = key(2, at_least=1, free=True)
    watch_images: Integer = key(0, at_least=0, free=True)
    """With every checkpoint, measure the smallest, middle and largest subnet on so many validation images; 0 watches nothing."""
    watch_at: Annotated[tuple[Number, ...], ListAsTuple] | None = key(None, free=True, only=WATCHED)
    """Measure at these shares of the run instead, 0 (before the first step) to 1, for example [0, 0.0625, 0.25, 1]."""
    watch_subnets: Integer = key(0, at_least=0, free=True, only=WATCHED)
    """... and so many random subnets, for Kendall tau of their accuracies with the prior."""
    watch_truth: Text | None = key(None, free=True, only=WATCHED)
    """... and the subnets of this truth file, for Kendall tau with their stand-alone accuracies. Nothing is learnt from them."""


class Score(Section):
    """How subnets are scored."""

    bn: Literal["running", "calibrated", "batch"] = key("calibrated", free=True)
    """Statistics of each subnet's BatchNorm: slices of the supernet's ``running`` ones (right for a supernet trained with
    ``model.bn: frozen``, else they mix all subnets), its own over the calibration images, or each batch's."""
    amp: Annotated[Literal["off", "bf16", "fp16"], _YAML_OFF] = key("off", free=True)
    """Feature maps and convolutions in low precision (GPU only); statistics, logits and metrics stay float32."""
    batch_size: Integer = key(100, at_least=1, free=True)
    calibration_images: Integer = key(256, at_least=1, free=True)
    """``calibrated``: how many training images, taken evenly from the list."""
    calibration_batch: Integer | None = key(None, at_least=1, free=True)
    """``calibrated``: average the statistics over batches of so many images; null takes all images as one batch. Either way the
    result does not depend on ``batch_size``, which bounds the memory."""
