"""The pictures that a backbone is tuned on, each with its views, as the network takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tlserve.core.augmentation import Augmentation, policy
from tlserve.core.types import Pixels
from tlserve.images import DEFAULT_MAX_PIXELS, ImageDecoder
from tlserve.images.views import ViewMaker
from tlserve.plugin_api import ImageSpec

Ints = npt.NDArray[np.intp]
ReadImage = Callable[[int], bytes]
"""The bytes of the file of an image, by its place in the list; raises OSError."""


@dataclass(frozen=True)
class Pictures:
    """Training images of one model and their views. View 0 is the picture as it is served.

    digests: sha256 of each image's bytes. read: its bytes, called on several threads.
    """

    spec: ImageSpec
    digests: tuple[str, ...]
    read: ReadImage
    n_views: int = 0
    """Augmented views asked for, beside the picture itself."""
    augment: tuple[str, ...] = ("none",)
    max_pixels: int = DEFAULT_MAX_PIXELS
    threads: int = 1

    def __len__(self) -> int:
        return len(self.digests)

    @cached_property
    def augmentation(self) -> Augmentation:
        """Raises ValueError for words that name no operation."""
        return policy(self.augment)

    @property
    def views(self) -> range:
        """The numbers of all views, 0 included; fewer than asked for where no more can differ."""
        return range(1 + len(self.augmentation.indices(self.n_views)))

    def pixels(self, images: Sequence[int] | Ints, views: Sequence[int] | Ints) -> Pixels:
        """(n, H, W, 3) uint8 RGB: of each image the view beside it, in this order.

        Raises BadImage, or OSError from `read`.
        """
        wanted = list(zip(map(int, images), map(int, views), strict=True))
        if self.threads == 1:
            return np.stack([self._picture(image, view) for image, view in wanted])
        with ThreadPoolExecutor(self.threads) as pool:
            return np.stack(list(pool.map(lambda pair: self._picture(*pair), wanted)))

    def _picture(self, image: int, view: int) -> npt.NDArray[np.uint8]:
        data = self.read(image)
        if view == 0:
            return ImageDecoder(self.spec, self.max_pixels).decode(data)
        maker = ViewMaker(self.spec, self.augmentation, self.max_pixels)
        return maker.views(data, self.digests[image], [view])[0]


def normalised(pixels: Pixels, spec: ImageSpec, device: torch.device) -> Tensor:
    """Pictures as the network's input, float32, by the image spec: (n, 3, H, W), or (n, H, W, 3)."""
    images = torch.from_numpy(np.array(pixels)).to(device)
    if spec.channel_order == "BGR":
        images = images.flip(3)
    mean, std = (torch.tensor(values, device=device) for values in (spec.mean, spec.std))
    images = (images.float() - mean) / std
    # As a permuted view, the channels stay side by side in memory, where convolutions want them.
    return images if spec.layout == "NHWC" else images.permute(0, 3, 1, 2)
