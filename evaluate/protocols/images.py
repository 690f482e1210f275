"""What all classification protocols share: how an image becomes the backbone's input, and how much data is used."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from evaluate.protocols.base import TaskProtocol
from pretrain.runtime.settings import Later

IMAGES_SOURCE = "moco-v3 main_lincls.py, dino eval_knn.py (Resize 256, CenterCrop 224); native_up_to_px: this project"


class ImageProtocol(TaskProtocol):
    """Base of the protocols that classify images.

    The size rule is explicit, because nothing hurts a comparison like a silent upscale: a set whose images have a
    longer side of at most `native_up_to_px` pixels (CIFAR, `shapes`), by the median over all images of the splits
    used, is used at its own size: neither resized nor cropped where all have one size, else brought to the median of
    the shorter sides. The run says so in one line, and the row holds what was seen and done. Set it to 0 to have such
    images upscaled to `image_size` on purpose.

    Attributes:
        resize: shorter side in pixels before the test crop.
        image_size: side of the test's centre crop, and of the training crop where the protocol trains, in pixels.
        interpolation: of both resizings.
        native_up_to_px: see above.
        off_patch: an image whose side is no multiple of the backbone's patch: "resize" brings it to the next multiple
            (`resize` grows with it), "pad" fills it up with black (timm's dynamic_img_pad). A family whose positions
            are fixed (BEiT, mixers) is measured at its own size, whatever this says.
        normalization: "checkpoint", always: mean and std belong to the weights, and no protocol overrides them. Where
            a file does not say, `--normalization` does.
        stated_normalization: what the protocol's source feeds its own weights: "imagenet", "swav" (its std starts with
            0.228, swav src/multicropdataset.py and eval_linear.py) or "none" (pixels in 0..1, SimCLR's TensorFlow
            models). Where the checkpoint's is another, the run warns with both.
        train_limit, test_limit: use a stratified subset of this many images, drawn from the seed; for trying things.
            None uses them all.
        test_split: which split is measured; "auto" is the set's `test`, or its `val` where it has no `test`.
            "tenth_of_train" leaves both alone: a tenth of every class of `train`, the same in every run, is measured
            and the rest trained on. It is meant for choosing how to pretrain, before the test set is looked at.
        damaged_train: at a training image that does not decode "stop", or "skip" it; those left out are counted in the
            row (`damaged_train`) and named in the log. An image that is measured is never left out.
        metric: the main metric, which stands first in the results and by which settings are chosen. "auto" is the one
            the field reports for the set: mAP for several labels an image, mean_per_class for torchvision's
            OxfordIIITPet, Flowers102, FGVCAircraft and Caltech101 (arXiv:1805.08974, table 1; ssl-transfer linear.py),
            else top1.
    """

    resize: int = Field(default=256, ge=1)
    image_size: int = Field(default=224, ge=1)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    native_up_to_px: int = Field(default=64, ge=0)
    off_patch: Annotated[Literal["resize", "pad"], Later(before="resize")] = "resize"
    normalization: Literal["checkpoint"] = "checkpoint"
    stated_normalization: Annotated[Literal["checkpoint", "imagenet", "swav", "none"], Later(before="checkpoint")] = (
        "checkpoint"
    )
    train_limit: int | None = Field(default=None, ge=2)
    test_limit: int | None = Field(default=None, ge=1)
    test_split: Literal["auto", "test", "val", "tenth_of_train"] = "auto"
    damaged_train: Annotated[Literal["stop", "skip"], Later(before="stop")] = "stop"
    metric: Literal["auto", "top1", "mean_per_class"] = "auto"


TokensSeen = Literal["pooled", "class", "mean", "both"]


class FeatureProtocol(ImageProtocol):
    """Base of the protocols that see each image once, through the frozen backbone, and then only its features.

    Attributes:
        layers: how many of the last stages (ResNet: average-pooled maps) or blocks (ViT: class tokens) are
            concatenated. 1 is the backbone's own pooled output.
        patch_average: for ViTs, concatenate the mean of the last block's patch tokens as well (DINOv2's `avgpool`).
        tokens: what is taken of each layer of a ViT: "class" token, "mean" of the patch tokens, or "both", one after
            the other. "pooled" is the backbone's own pooled output for one layer, class tokens for more.
        norm: a ViT's final norm is applied to each layer first; off, what the block gives (MSN).
        per_class: few-shot: train on this many images of each class, drawn from the seed; None for all.
    """

    layers: int = Field(default=1, ge=1)
    patch_average: bool = False
    tokens: Annotated[TokensSeen, Later(before="pooled")] = "pooled"
    norm: Annotated[bool, Later(before=True)] = True
    per_class: int | None = Field(default=None, ge=1)


class ChoosingProtocol(FeatureProtocol):
    """Base of the protocols that choose a setting (lr, C) on images that are neither trained on nor tested.

    Attributes:
        held_out: fraction of train to choose on, where the set has no `val` split of its own or `use_val` is off.
        use_val: choose on the set's official `val` split where it has one; the last training is on train and val.
    """

    held_out: float = Field(default=0.1, gt=0, lt=1)
    use_val: bool = False
