"""The tiny graph in torch, and the ways in which a torch module can break its promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper

from tests.plugin_host.tiny import TinyBackbone, tiny_model
from tlserve.plugin_api import TrainableModule

Taps = dict[str, torch.Tensor]


class TinyNetwork(torch.nn.Module):
    """The tiny graph in torch."""

    def __init__(self) -> None:
        super().__init__()
        weights = {
            t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in tiny_model().graph.initializer
        }
        self.first = torch.nn.Conv2d(3, 4, 1, bias=False)
        self.second = torch.nn.Linear(4, 6, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(weights["kernel"])
            self.second.weight.copy_(weights["matrix"].T)

    def forward(self, images: torch.Tensor) -> Any:
        stage = self.first(images).relu()
        return {"stage1": stage, "features": self.second(stage.mean((2, 3)))}

    def blocks(self) -> tuple[torch.nn.Module, ...]:
        return self.first, self.second


class TinyTrainable(TinyBackbone):
    """Offers one kind of network, a new one each time."""

    network: Callable[[], TinyNetwork] = TinyNetwork

    def torch_module(self) -> TrainableModule:
        network = type(self).network()
        return TrainableModule(network, network.blocks())


def trainable(kind: Callable[[], TinyNetwork]) -> TinyTrainable:
    class Broken(TinyTrainable):
        network = kind

    return Broken()


class Louder(TinyNetwork):
    """By a thousandth: more than kernels differ by."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.second.weight.mul_(1.001)


class TupleOfTaps(TinyNetwork):
    def forward(self, images: torch.Tensor) -> Any:
        return tuple(super().forward(images).values())


class TupleInTraining(TinyNetwork):
    def forward(self, images: torch.Tensor) -> Any:
        taps = super().forward(images)
        return tuple(taps.values()) if self.training else taps


class BlueFirst(TinyNetwork):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images.flip(1))


class AlwaysDropping(TinyNetwork):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(torch.nn.functional.dropout(images, 0.5, training=True))


class NeverEvaluating(TinyNetwork):
    def train(self, mode: bool = True) -> TinyNetwork:
        return super().train(True)


class BatchStatistics(TinyNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3, affine=False, track_running_stats=False)

    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(self.norm(images))


class TrainedOnOtherValues(TinyNetwork):
    """Its batch norm has learnt a variance as of pixels between 0 and 1; it is given -1 to 3."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3, affine=False)
        assert self.norm.running_var is not None
        self.norm.running_var.fill_((0.2 / 58) ** 2)

    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(self.norm(images))


class Untrained(TinyNetwork):
    """Its batch norm is as torch made it, and meets values that are far smaller than one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(self.norm(images * 1e-3))


class FrozenFirst(TinyNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.first.requires_grad_(False)


class Detached(TinyNetwork):
    def forward(self, images: torch.Tensor) -> Any:
        stage = self.first(images).relu().detach()
        return {"stage1": stage, "features": self.second(stage.mean((2, 3)))}


class BlocksWith(TinyTrainable):
    def __init__(self, pick: Callable[[TinyNetwork], tuple[torch.nn.Module, ...]]) -> None:
        super().__init__()
        self._pick = pick

    def torch_module(self) -> TrainableModule:
        network = TinyNetwork()
        return TrainableModule(network, self._pick(network))


class SharedModule(TinyTrainable):
    """Exports what its one torch module holds, and hands out that very module."""

    def __init__(self) -> None:
        super().__init__(make_model=self._model)
        self._network = TinyNetwork()

    def _model(self) -> Any:
        model = tiny_model()
        matrix = self._network.second.weight.detach().numpy().T
        model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(matrix), "matrix"))
        return model

    def torch_module(self) -> TrainableModule:
        return TrainableModule(self._network, self._network.blocks())


class KeptModule(TinyTrainable):
    """Exports its own weights, but hands out one module again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._network = TinyNetwork()

    def torch_module(self) -> TrainableModule:
        return TrainableModule(self._network, self._network.blocks())
