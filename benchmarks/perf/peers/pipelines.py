"""Two views of a JPEG as others make them: PIL and torchvision v1, torchvision v2 on tensors, kornia in batches."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import io as torchvision_io
from torchvision import transforms as v1
from torchvision.transforms import functional as v1_functional
from torchvision.transforms import v2

from pretrain.views.draws import draw_view
from pretrain.views.settings import MOCO_V2
from pretrain.views.two_views import TwoViews

Pair = tuple[Tensor, Tensor]


class PilBlur:
    """MoCo v2's blur: PIL's, sigma uniform in 0.1 to 2."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=0.1 + 1.9 * float(torch.rand(()))))


def pil_v1() -> Callable[[bytes], Pair]:
    """The field's pipeline: PIL images through torchvision's first transforms, each view on its own."""
    transform = v1.Compose(
        [
            v1.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=v1.InterpolationMode.BICUBIC),
            v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v1.RandomGrayscale(p=0.2),
            v1.RandomApply([PilBlur()], p=0.5),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(MOCO_V2.mean, MOCO_V2.std),
        ]
    )

    def make(data: bytes) -> Pair:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return transform(image), transform(image)

    return make


def v2_tensors() -> Callable[[bytes], Pair]:
    """torchvision's second transforms on decoded tensors."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(MOCO_V2.mean), list(MOCO_V2.std)),
        ]
    )

    def make(data: bytes) -> Pair:
        image = torchvision_io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        return transform(image), transform(image)

    return make


def kornia_batches() -> Callable[[list[bytes]], Pair] | None:
    """Kornia's augmentation of a batch of decoded and resized images; None where it is not installed."""
    try:
        import kornia.augmentation as K
    except ModuleNotFoundError:
        return None
    transform = nn.Sequential(
        K.RandomResizedCrop((224, 224), scale=(0.2, 1.0), resample="bicubic"),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((13, 13), (0.1, 2.0), p=0.5),
        K.RandomHorizontalFlip(),
    )

    def make(files: list[bytes]) -> Pair:
        decoded = [torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1).float() / 255 for data in files]
        batch = torch.stack([nn.functional.interpolate(x[None], (375, 500))[0] for x in decoded])
        return transform(batch), transform(batch)

    return make


class PilDataset(Dataset[Pair]):
    """`pil_v1` for a DataLoader."""

    def __init__(self, files: list[bytes]) -> None:
        self.files, self.make = files, pil_v1()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pair:
        return self.make(self.files[index])


class PilTwoViews(TwoViews):
    """The same draws as ours, applied with PIL and torchvision's functions on PIL images."""

    def write(self, image: np.ndarray, index: int, epoch: int, places: tuple[Tensor, ...]) -> None:
        height, width = image.shape[:2]
        for view, place in enumerate(places):
            draw = draw_view(self.spec, self.seed, epoch, index, view, height, width)
            mode = v1.InterpolationMode(self.spec.interpolation)
            x = v1_functional.resized_crop(Image.fromarray(image), *draw.box, [self.spec.size] * 2, mode)
            if draw.jitter is not None:
                for operation in draw.order:
                    x = _PIL_JITTER[operation](x, draw.jitter[operation])
            if draw.gray:
                x = v1_functional.rgb_to_grayscale(x, 3)
            if draw.blur_sigma:
                x = x.filter(ImageFilter.GaussianBlur(radius=draw.blur_sigma))
            if draw.solarize:
                x = ImageOps.solarize(x)
            if draw.flip:
                x = v1_functional.hflip(x)
            pixels = v1_functional.normalize(v1_functional.to_tensor(x), list(self.spec.mean), list(self.spec.std))
            place.copy_(pixels)


_PIL_JITTER = (
    v1_functional.adjust_brightness,
    v1_functional.adjust_contrast,
    v1_functional.adjust_saturation,
    v1_functional.adjust_hue,
)
