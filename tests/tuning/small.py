"""A real backbone in a few kilobytes, and pictures whose classes it cannot tell apart before it is tuned."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from tlserve.core.tuning import TuneOptions
from tlserve.plugin_api import BackboneInfo, ImageSpec, Tap, TrainableModule
from tlserve.tuning import Lesson, Pictures, TuningImage, validation_slice

IMAGE = ImageSpec(
    height=24,
    width=24,
    resize_short_side=None,
    crop="none",
    mean=(127.5, 127.5, 127.5),
    std=(60.0, 60.0, 60.0),
)
OPTIONS = TuneOptions(
    unfreeze=2,
    epochs=4,
    batch_size=16,
    head_learning_rate=0.01,
    backbone_fraction=0.5,
    views=1,
    augment=("flip",),
)
CPU = torch.device("cpu")


def _conv(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    """With an activation that overwrites its input, as the networks of torchvision have."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU6(inplace=True),
    )


class SmallNet(nn.Module):
    """Three stages, a shortcut, dropout; `features` are the last two stages side by side.

    Before it is tuned, the channels of the third stage are almost the same: it sees one thing only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 8, 2)
        self.middle = _conv(8, 8)
        self.last = nn.Sequential(_conv(8, 16, 2), nn.Dropout(0.3))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            for part in self.modules():
                if isinstance(part, nn.Conv2d):
                    part.reset_parameters()
                if isinstance(part, nn.BatchNorm2d):
                    assert part.running_mean is not None and part.running_var is not None
                    part.running_mean.normal_(0, 0.1)
                    part.running_var.uniform_(0.1, 0.3)
            with torch.no_grad():
                weight = self.last[0][0].weight
                weight.copy_(0.1 * weight + 0.1 * torch.randn(weight[:1].shape))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        stem = self.stem(pictures)
        middle = self.middle(stem) + stem
        last = self.last(middle)
        features = torch.cat([middle.mean((2, 3)).mean(1, keepdim=True), last.mean((2, 3))], dim=1)
        return {"stage1": stem, "features": features}


class SmallBackbone:
    """Hands out one kind of network; what it exports itself nobody asks for here."""

    def __init__(self, network: type[nn.Module] = SmallNet) -> None:
        self._network = network

    @property
    def info(self) -> BackboneInfo:
        return BackboneInfo(
            name="small",
            licence="MIT",
            n_parameters=sum(p.numel() for p in self._network().parameters()),
            weights_origin="drawn at random",
            weights_sha256="0" * 64,
            build_version="1",
            image=IMAGE,
            taps=(Tap("stage1", 8), Tap("features", 17)),
        )

    def export(self, path: Path) -> None:
        raise NotImplementedError

    def torch_module(self) -> TrainableModule:
        network = self._network().eval()
        return TrainableModule(network, tuple(network.children()))


def colours(n: int, seed: int = 0) -> tuple[list[bytes], npt.NDArray[np.intp]]:
    """n PNG files of noise, and their classes: half are without a tint, half have one, red or green.

    No single direction in colour tells the classes apart.
    """
    draw = np.random.default_rng(seed)
    targets = np.arange(n) % 2
    files = []
    for target in targets:
        pixels = draw.integers(70, 186, (24, 24, 1)) + draw.integers(-25, 26, (24, 24, 3))
        tint = 20 * target * draw.choice([-1, 1])
        pixels += np.array([tint, -tint, 0])
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files, targets.astype(np.intp)


def pictures_of(files: list[bytes], *, n_views: int = 1) -> Pictures:
    digests = tuple(hashlib.sha256(file).hexdigest() for file in files)
    return Pictures(IMAGE, digests, files.__getitem__, n_views=n_views, augment=("flip",))


def lesson(n: int = 150, *, n_views: int = 1) -> Lesson:
    files, targets = colours(n)
    return Lesson(pictures_of(files, n_views=n_views), targets, validation_slice(targets, share=0.2), 2)


def images_in(folder: Path, n: int = 60) -> list[TuningImage]:
    """The same pictures as files."""
    files, targets = colours(n)
    found = []
    for number, (file, target) in enumerate(zip(files, targets, strict=True)):
        path = folder / f"{number}.png"
        path.write_bytes(file)
        label = ("plain", "tinted")[target]
        found.append(TuningImage(hashlib.sha256(file).hexdigest(), path, label, number))
    return found
