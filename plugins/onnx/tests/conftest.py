"""Real networks with random weights as ONNX files, exported once for all tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Exported:
    """A file, pictures for it, and what the network's last layer is given for them."""

    path: Path
    pictures: Any
    """(2, 3, size, size) float32."""
    features: Any
    """(2, width) float32, averaged over space."""


def network(name: str) -> tuple[Any, int]:
    """A network by its short name, and the size of its pictures."""
    from torch import nn
    from torchvision import models
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    from torchvision.models.swin_transformer import SwinTransformer
    from torchvision.models.vision_transformer import VisionTransformer

    if name == "vit":
        vit = {"num_layers": 6, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 48}
        return VisionTransformer(image_size=32, patch_size=8, num_classes=10, **vit), 32
    if name == "swin":
        swin = {"embed_dim": 12, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 3], "window_size": [2, 2]}
        return SwinTransformer(patch_size=[4, 4], num_classes=10, **swin), 64
    if name == "convnext":
        widths = [(12, 24), (24, 36), (36, 48), (48, None)]
        return ConvNeXt([CNBlockConfig(a, b, 2) for a, b in widths], num_classes=10), 64
    if name == "vgg":
        convolutions = models.vgg.make_layers([8, "M", 12, "M", 16, 16, "M", 20, "M", 24, "M"])
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 40), nn.ReLU(), nn.Dropout()]
        return nn.Sequential(convolutions, *head, nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10)), 64
    return getattr(models, name)(), 64


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A file of the material beside the repository; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = Path(__file__).resolve().parents[4] / "shared" / name
        if not path.exists():
            pytest.skip(f"needs ../shared/{name}, which is not on this machine")
        return path

    return find


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    """`exported(network, exporter)`, the exporter being `torchscript` or `dynamo`; each made once."""
    made: dict[tuple[str, str], Exported] = {}

    def make(name: str, exporter: str = "torchscript") -> Exported:
        if (name, exporter) not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name, exporter] = _export(name, exporter, folder / f"{name}.onnx")
        return made[name, exporter]

    return make


def _export(name: str, exporter: str, path: Path) -> Exported:
    import torch

    torch.manual_seed(0)
    module, size = network(name)
    module.eval()
    pictures = torch.randn(2, 3, size, size)
    layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    caught: list[Any] = []
    hook = layers[-1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        module(pictures)
    hook.remove()
    features = caught[0].mean((2, 3)) if caught[0].ndim == 4 else caught[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            free = ({0: torch.export.Dim("N")},)
            torch.onnx.export(
                module,
                (pictures,),
                path,
                dynamo=True,
                external_data=False,
                dynamic_shapes=free,
                verbose=False,
            )
        else:
            names = {"input_names": ["input"], "output_names": ["output"]}
            free = {"input": {0: "N"}, "output": {0: "N"}}
            torch.onnx.export(module, (pictures,), path, dynamo=False, dynamic_axes=free, **names)
    return Exported(path, pictures.numpy(), np.asarray(features))
