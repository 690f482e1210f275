"""What the shapes of a file's tensors say of its architecture. Pure Python: naming a file needs no torch.

The tables are those of `pretrain.backbones.registry`; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

Shape = tuple[int, ...]
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Trunk:
    """A ResNet's plan.

    Attributes:
        bottleneck: 1x1, 3x3, 1x1 blocks (expansion 4) or two 3x3.
        stem: channels and kernel size of the first convolution.
        planes: of the first stage's blocks; each later stage doubles them.
        inner: width of a bottleneck's 3x3 convolution per `planes`, as a fraction (torchvision's width_per_group / 64).
    """

    blocks: tuple[int, ...]
    bottleneck: bool
    stem: tuple[int, int] = (64, 7)
    planes: int = 64
    inner: int = 1
    groups: int = 1
    projections: bool = True


BASIC18, BASIC34 = Trunk((2, 2, 2, 2), False), Trunk((3, 4, 6, 3), False)


def _bottleneck(*blocks: int, wide: int = 1, inner: int = 1, groups: int = 1) -> Trunk:
    return Trunk(blocks, True, (64 * wide, 7), 64 * wide, inner, groups)


TRUNKS: dict[str, Trunk] = {
    "resnet18": BASIC18,
    "resnet34": BASIC34,
    "resnet50": _bottleneck(3, 4, 6, 3),
    "resnet101": _bottleneck(3, 4, 23, 3),
    "resnet152": _bottleneck(3, 8, 36, 3),
    "resnet200": _bottleneck(3, 24, 36, 3),
    "resnet50x2": _bottleneck(3, 4, 6, 3, wide=2),
    "resnet50x3": _bottleneck(3, 4, 6, 3, wide=3),
    "resnet50x4": _bottleneck(3, 4, 6, 3, wide=4),
    "resnet50x5": _bottleneck(3, 4, 6, 3, wide=5),
    "resnet101x2": _bottleneck(3, 4, 23, 3, wide=2),
    "resnet152x2": _bottleneck(3, 8, 36, 3, wide=2),
    "resnet200x2": _bottleneck(3, 24, 36, 3, wide=2),
    "wide_resnet50_2": _bottleneck(3, 4, 6, 3, inner=2),
    "wide_resnet101_2": _bottleneck(3, 4, 23, 3, inner=2),
    "resnext50_32x4d": _bottleneck(3, 4, 6, 3, inner=2, groups=32),
    "resnext101_32x8d": _bottleneck(3, 4, 23, 3, inner=4, groups=32),
    "resnet18_cifar": Trunk((2, 2, 2, 2), False, (64, 3)),
    "resnet34_cifar": Trunk((3, 4, 6, 3), False, (64, 3)),
    "resnet50_cifar": Trunk((3, 4, 6, 3), True, (64, 3)),
    **{
        f"cifar_resnet{6 * n + 2}{suffix}": Trunk((n, n, n), False, (16, 3), 16, projections=bool(suffix))
        for n in (3, 5, 7, 9)
        for suffix in ("", "_b")
    },
}


@cache
def expected(name: str) -> dict[str, Shape]:
    """Name -> shape of every tensor of a backbone, `num_batches_tracked` left out."""
    trunk = TRUNKS[name]
    channels, kernel = trunk.stem
    shapes: dict[str, Shape] = {"conv1.weight": (channels, 3, kernel, kernel), **_norm("bn1", channels)}
    expansion = 4 if trunk.bottleneck else 1
    before = channels
    for stage, count in enumerate(trunk.blocks):
        planes = trunk.planes * 2**stage
        for block in range(count):
            at = f"layer{stage + 1}.{block}"
            after = planes * expansion
            if trunk.bottleneck:
                inner = planes * trunk.inner
                plan = [(before, inner, 1, 1), (inner, inner, 3, trunk.groups), (inner, after, 1, 1)]
            else:
                plan = [(before, planes, 3, 1), (planes, planes, 3, 1)]
            for index, (into, out, size, groups) in enumerate(plan, start=1):
                shapes[f"{at}.conv{index}.weight"] = (out, into // groups, size, size)
                shapes |= _norm(f"{at}.bn{index}", out)
            if block == 0 and (before != after or stage > 0) and trunk.projections:
                shapes[f"{at}.downsample.0.weight"] = (after, before, 1, 1)
                shapes |= _norm(f"{at}.downsample.1", after)
            before = after
    return shapes


def _norm(at: str, width: int) -> dict[str, Shape]:
    return {f"{at}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")}


@dataclass(frozen=True)
class Match:
    """How well the file's shapes fit the backbone that fits best.

    Attributes:
        backbone: its name for `pretrain.backbones.registry.build`, or None when nothing here resembles the file.
        text: the architecture in words.
        missing, misshapen, unexpected: what keeps it from fitting; all empty for a fit.
    """

    backbone: str | None
    text: str
    missing: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def fits(self) -> bool:
        """Whether every tensor of the backbone is there, in its shape, and no other."""
        return self.backbone is not None and not (self.missing or self.misshapen or self.unexpected or self.reason)


def match_resnet(shapes: Mapping[str, Shape]) -> Match:
    """Find the backbone of a trunk in torchvision names. `shapes`: name -> shape, `num_batches_tracked` left out."""
    text = _resnet_in_words(shapes)
    stem = shapes.get("conv1.weight")
    if stem is not None and len(stem) == 4 and stem[1] != 3:
        kind = {1: "a 1-channel (grey) stem", 2: "a 2-channel (Sobel or ab) stem"}.get(
            stem[1], f"{stem[1]} channels in"
        )
        return Match(None, text, reason=f"{kind}: it does not take RGB images, and no backbone here has such a stem")
    extra = sorted({name.split(".")[0] for name in shapes if name.startswith(("conv2.", "stem.", "maxpool."))})
    if stem is None and extra:
        return Match(None, text, reason=f"a stem of several convolutions ({', '.join(extra)})")

    def distance(name: str) -> int:
        table = expected(name)
        wrong = sum(1 for key, shape in shapes.items() if table.get(key) != shape)
        return wrong + sum(1 for key in table if key not in shapes)

    best = min(TRUNKS, key=distance)
    table = expected(best)
    missing = tuple(name for name in table if name not in shapes)
    misshapen = tuple(
        f"{name} is {shapes[name]}, expected {shape}"
        for name, shape in table.items()
        if shapes.get(name, shape) != shape
    )
    unexpected = tuple(name for name in shapes if name not in table)
    return Match(best, text, missing, misshapen, unexpected)


def _resnet_in_words(shapes: Mapping[str, Shape]) -> str:
    blocks = []
    for stage in range(1, 9):
        numbers = {int(n.split(".")[1]) for n in shapes if n.startswith(f"layer{stage}.") and n.split(".")[1].isdigit()}
        if not numbers:
            break
        blocks.append(max(numbers) + 1)
    stem = shapes.get("conv1.weight", ())
    kind = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
    words = f"ResNet of {kind} blocks {blocks}"
    if len(stem) == 4:
        words += f", {stem[2]}x{stem[3]} stem of {stem[0]} channels"
    inner, first = shapes.get("layer1.0.conv2.weight", ()), shapes.get("layer1.0.conv3.weight", ())
    if len(inner) == 4 and len(first) == 4:
        words += f", inner width {inner[0]}"
        if inner[1] and inner[0] != inner[1]:
            words += f" in {inner[0] // inner[1]} groups"
    return words
