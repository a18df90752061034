"""The common sections of the configuration: every key with its default, type, range and meaning. A method's are in methods/."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from paddle_pgonas.methods import METHODS
from paddle_pgonas.priors.by_name import TrainingPrior
from paddle_pgonas.schema import File, Folder, Integer, ListAsTuple, Number, Section, key

Colour = Annotated[tuple[Number, Number, Number], ListAsTuple]
"""One number each for red, green and blue."""
Deviation = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Range = Annotated[tuple[Integer, Integer], ListAsTuple]
"""The least and the greatest value."""
_YAML_OFF = BeforeValidator(lambda value: "off" if value is False else value)  # YAML 1.1 reads off as false


_NO_NUMBER = BeforeValidator(lambda value: str(value) if type(value) is int else value)  # 1 is not true


class Data(Section):
    """The images, and their transforms."""

    source: Literal["folder", "digits"] = "folder"
    """``folder``: image files in class folders or named by lists. ``digits``: scikit-learn's handwritten digits."""
    root: Folder | None = key(None, free=True)
    """The folder of the images: ``root/train/<class>/*`` and ``root/val/<class>/*``, or files named by lists."""
    train_list: File | None = key(None, free=True)
    """Lines of path and label; null takes ``train_list.txt`` in ``root`` or ``root/ILSVRC2012`` if there is one."""
    val_list: File | None = key(None, free=True)
    """The same for the validation images: ``val_list.txt``."""
    cache_dir: Folder | None = key(None, free=True)
    """The folder of the cache of decoded images; null means ``<output_dir>/cache``."""
    image_size: Integer = key(224, at_least=8, at_most=4096)
    """Side of the network's square input, in pixels."""
    resize: Integer = key(256, at_least=8, at_most=8192)
    """Evaluation: shorter side before the centre crop (equal to ``image_size`` means no margin)."""
    augment: Literal["crop_flip", "shift_flip", "shift", "none"] = "crop_flip"
    """Training: random resized crop and flip (ImageNet); shift by an eighth at most, with or without flip (small images)."""
    mean: Colour = (0.485, 0.456, 0.406)
    """Subtracted from red, green and blue, which are scaled to 0..1."""
    std: Annotated[tuple[Deviation, Deviation, Deviation], ListAsTuple] = (0.229, 0.224, 0.225)
    """Divides red, green and blue after that."""
    workers: Integer = key(4, at_least=0, free=True)
    """Loader processes for training images; 0 loads in the training process."""
    train_limit: Integer | None = key(None, at_least=1)
    """Train on this number of images, taken evenly from the list and so from the classes; null takes all."""
    val_limit: Integer | None = key(None, at_least=1, free=True)
    """Score on this number of validation images, taken evenly from the list; null takes all."""
    max_unreadable: Number = key(0.01, at_least=0, at_most=1, free=True)
    """Images that cannot be read are named and left out, up to this share (rounded up) of a job's images."""

    @property
    def given(self) -> bool:
        """Whether it is told where the images are."""
        return self.source != "folder" or self.root is not None

    def _problems(self) -> Iterator[tuple[str, str]]:
        if self.resize < self.image_size:
            yield "resize", f"({self.resize}) must not be smaller than data.image_size ({self.image_size})"
        for name in ("root", "train_list", "val_list"):
            yield from self.no_use(name, self.source == "folder", "data.source=folder")


class Model(Section):
    """The supernet."""

    num_classes: Integer = key(1000, at_least=2, at_most=1_000_000)
    """Number of classes; the images' folder must not have more."""
    activation: Literal["relu", "prelu", "swish", "mish", "selu"] = "relu"
    """Activation after each residual sum; the one inside a block stays ReLU."""
    pretrained: File | None = None
    """Weights of the full network to start from (.pdparams or .safetensors); null starts from random weights."""
    reorder: Annotated[Literal[True, False, "always"], _NO_NUMBER] = True
    """Sort the inner channels of pretrained blocks by importance, so that narrow subnets inherit the best. Those of a supernet,
    as its record tells, keep the order in which its narrow subnets were trained; ``always`` sorts them too."""
    mismatch: Literal["refuse", "warn"] = key("refuse", free=True)
    """Weights whose record contradicts the job (names or order of the classes, normalisation, space): refuse them, or only say
    so. Class i of the images is then output i of the network."""
    bn: Literal["batch", "frozen", "sync"] = "batch"
    """BatchNorm in training: ``batch`` statistics that update the running ones, the same over all processes' images (``sync``),
    or the pretrained ones, ``frozen``."""

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from self.no_use("reorder", self.pretrained is not None, "model.pretrained")


class Recipe(Section):
    """The keys of ``train`` that decide how any network is trained, a supernet or a subnet of its own."""

    epochs: Integer = key(70, at_least=1)
    """Passes over the training images; an incomplete last batch is left out."""
    max_steps: Integer | None = key(None, at_least=1, free=True)
    """Stop after this number of steps; the schedules stay those of the whole run."""
    batch_size: Integer = key(256, at_least=1)
    """Images per step and process."""
    accumulate: Integer = key(1, at_least=1)
    """Split each batch into this number of micro-batches, so that it fits into a small GPU: gradients are averaged, BatchNorm and
    the rank loss use one micro-batch at a time."""
    amp: Annotated[Literal["off", "tf32", "fp16", "bf16"], _YAML_OFF] = "off"
    """Precision. ``off``: float32, on GPUs too. On GPUs only, with the least compute capability: ``tf32`` (8.0), float32 whose
    convolutions read 10 bits; ``fp16`` (7.0), mixed precision with a scaled loss; ``bf16`` (8.0), mixed with coarser numbers."""
    clip_grad_norm: Number | None = key(None, at_least=1e-6)
    """Clip the gradient to this norm; null does not clip."""
    lr_per_256: Number = key(0.001, at_least=0)
    """Highest learning rate per 256 images of the total batch of all processes: doubling the batch doubles the rate."""
    momentum: Number = key(0.9, at_least=0, below=1)
    """Momentum of SGD."""
    weight_decay: Number = key(0.0, at_least=0)
    """L2 penalty of SGD, on all parameters."""
    schedule: Literal["cosine", "published", "restarts"] = "cosine"
    """``cosine``: linear warm-up, then cosine to 0, both per step. ``published``: warm-up computed for ``warmup_images`` per
    epoch, then one cosine step per epoch. ``restarts``: the six cosines of the challenge's 2nd place, without a warm-up."""
    warmup_epochs: Number = key(5.0, at_least=0)
    """Epochs in which the learning rate rises linearly from 0."""
    warmup_images: Integer = key(1281024, at_least=1)
    """``published`` only: the images per epoch for which the warm-up is computed (those of ImageNet, whatever the data)."""

    def _problems(self) -> Iterator[tuple[str, str]]:
        if self.batch_size % self.accumulate:
            yield "batch_size", f"({self.batch_size}) must be a multiple of train.accumulate ({self.accumulate})"
        yield from self.no_use("warmup_epochs", self.schedule != "restarts", "train.schedule=cosine or published")
        yield from self.no_use("warmup_images", self.schedule == "published", "train.schedule=published")


class Train(Recipe):
    """How the supernet is trained, whatever the method."""

    renamed = {name: f"method.{name}" for options in METHODS.values() for name in options.model_fields} | {
        "strategy": "method.name",
        "prior": "method.prior (of watched subnets: train.watch_prior)",
        "draws": "method.sampler (seed is random)",
        "highest_codes": "train.narrowest_codes",
    }

    narrowest_codes: Annotated[tuple[Integer, ...], ListAsTuple] | None = None
    """Narrowest (highest) width code per stage that is sampled; the sandwich's smallest subnet has these. Track 1's candidates
    have at most [3, 3, 5, 7]; null allows all."""
    depth_ranges: Annotated[tuple[Range, ...], ListAsTuple] | None = None
    """Least and greatest depth per stage that is sampled; null allows all. Scoring with several supernets assigns each candidate
    to the first supernet whose ranges contain it."""
    unused_parameters: Literal["zero_gradient", "no_gradient"] = "zero_gradient"
    """Parameters that no step has used yet: ``zero_gradient`` applies weight decay to them from the first step on;
    ``no_gradient`` does not update them until their first use (as published)."""
    log_every: Integer = key(10, at_least=1, free=True)
    """Steps between lines of the log."""
    checkpoint_every: Integer = key(1, at_least=1, free=True)
    """Epochs between checkpoints."""
    keep_checkpoints: Integer = key(2, at_least=1, free=True)
    """Number of newest checkpoints that are kept."""
    watch_images: Integer = key(0, at_least=0, free=True)
    """At every checkpoint, measure the smallest, middle and largest subnet on this number of validation images; 0: none."""
    watch_at: Annotated[tuple[Share, ...], ListAsTuple] | None = key(None, free=True)
    """Measure at these shares of the run instead, 0 (before the first step) to 1, for example [0, 0.0625, 0.25, 1]."""
    watch_subnets: Integer = key(0, at_least=0, free=True)
    """Also measure this number of random subnets, for Kendall tau of their accuracies with ``watch_prior``."""
    watch_prior: TrainingPrior = key("flops", free=True)
    """The prior that the watched subnets are compared with: as ``method.prior`` of ``pgonas``."""
    watch_truth: File | None = key(None, free=True)
    """Also measure the subnets of this truth file, for Kendall tau with their stand-alone accuracies; all their metrics are
    written to ``<output_dir>/watched/``. They do not influence the training."""

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        for name in ("watch_at", "watch_subnets", "watch_truth"):
            yield from self.no_use(name, self.watch_images > 0, "train.watch_images")
        yield from self.no_use("watch_prior", self.watch_subnets > 0, "train.watch_subnets")

    @property
    def splits(self) -> tuple[Literal["train", "val"], ...]:
        """The images that the training reads. Those to compare the classes with may be missing."""
        return ("train", "val") if self.watch_images else ("train",)


class Score(Section):
    """How subnets are scored."""

    bn: Literal["running", "calibrated", "batch"] = key("calibrated", free=True)
    """BatchNorm statistics of each subnet. ``running``: slices of the supernet's (correct for a supernet trained with
    ``model.bn: frozen``, otherwise a mixture over all subnets). ``calibrated``: its own over the calibration images. ``batch``:
    those of each batch."""
    amp: Annotated[Literal["off", "tf32", "fp16", "bf16"], _YAML_OFF] = key("off", free=True)
    """Precision of feature maps and convolutions, as in ``train.amp``; statistics, logits and metrics are float32."""
    batch_size: Integer = key(100, at_least=1, free=True)
    """Images per forward pass; with ``batch`` statistics the scores depend on it."""
    calibration_images: Integer = key(256, at_least=1, free=True)
    """``calibrated``: number of training images, taken evenly from the list."""
    calibration_batch: Integer | None = key(None, at_least=1, free=True)
    """``calibrated``: average the statistics over batches of this size; null takes all images as one batch. In both cases the
    result does not depend on ``batch_size``, which limits the memory."""

    @property
    def splits(self) -> tuple[Literal["val", "train"], ...]:
        """The images that scoring reads."""
        return ("val", "train") if self.bn == "calibrated" else ("val",)
