"""Each check of the kit passes on a sound backbone and catches a deliberately broken one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from tests.plugin_host.tiny import IMAGE, INFO, TinyBackbone, tiny_model, with_info, with_model
from tlserve.plugin_api import Backbone, BackboneInfo, Tap, TrainableModule
from tlserve.testing import CHECKS, CheckFailed, check_backbone


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

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        stage = self.first(images).relu()
        return {"stage1": stage, "features": self.second(stage.mean((2, 3)))}


class TinyTrainable(TinyBackbone):
    def torch_module(self) -> TrainableModule:
        network = TinyNetwork()
        return TrainableModule(network, (network.first, network.second))


def test_a_sound_backbone_passes_every_check() -> None:
    check_backbone(TinyBackbone())
    check_backbone(TinyTrainable())


class ChangingInfo(TinyBackbone):
    def __init__(self) -> None:
        self._count = itertools.count()

    @property  # type: ignore[misc]
    def info(self) -> BackboneInfo:  # type: ignore[override]
        return replace(INFO, build_version=str(next(self._count)))


def unpicklable() -> Backbone:
    class LocalText(str):
        __slots__ = ()

    return with_info(licence=LocalText("CC0-1.0"))


class SilentExport(TinyBackbone):
    def export(self, path: Path) -> None:
        if path.parent.exists():
            super().export(path)


class OddErrorExport(TinyBackbone):
    def export(self, path: Path) -> None:
        if not path.parent.exists():
            raise KeyError(path)
        super().export(path)


class NoExport(TinyBackbone):
    def export(self, path: Path) -> None:
        path.write_bytes(b"junk")


class ExternalExport(TinyBackbone):
    def export(self, path: Path) -> None:
        onnx.save(tiny_model(), path, save_as_external_data=True, location="more", size_threshold=0)


def changing_weights() -> Backbone:
    seeds = itertools.count()
    return TinyBackbone(make_model=lambda: tiny_model(seed=next(seeds)))


class DisagreeingModule(TinyTrainable):
    def torch_module(self) -> TrainableModule:
        trainable = super().torch_module()
        with torch.no_grad():
            trainable.module.second.weight.mul_(1.1)  # type: ignore[operator, union-attr]
        return trainable


class TupleModule(TinyTrainable):
    def torch_module(self) -> TrainableModule:
        class Tuple(TinyNetwork):
            def forward(self, images: torch.Tensor) -> Any:
                return tuple(super().forward(images).values())

        network = Tuple()
        return TrainableModule(network, (network.first, network.second))


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
        return TrainableModule(self._network, (self._network.first, self._network.second))


def noisy() -> Backbone:
    noise = helper.make_node("RandomNormalLike", ["y"], ["noise"])
    return with_model(after=[noise, helper.make_node("Add", ["y", "noise"], ["features"])])


def batch_centred() -> Backbone:
    mean = helper.make_node("ReduceMean", ["input"], ["batch_mean"], axes=[0], keepdims=1)
    return with_model(before=[mean, helper.make_node("Sub", ["input", "batch_mean"], ["x"])])


def training_batch_norm() -> Backbone:
    names = ("scale", "bias", "mean_in", "var_in")
    constants = [numpy_helper.from_array(np.ones(3, np.float32), name) for name in names]
    node = helper.make_node(
        "BatchNormalization", ["input", *names], ["x", "mean_out", "var_out"], training_mode=1
    )
    return with_model(before=[node], constants=constants)


def training_dropout() -> Backbone:
    constants = [
        numpy_helper.from_array(np.array(0.5, np.float32), "ratio"),
        numpy_helper.from_array(np.array(True), "training"),
    ]
    return with_model(
        before=[helper.make_node("Dropout", ["input", "ratio", "training"], ["x"])], constants=constants
    )


def with_taps(*taps: Tap) -> Backbone:
    return with_info(taps=taps)


def after(operator: str, *more: str) -> Backbone:
    zero = numpy_helper.from_array(np.array(0.0, np.float32), "zero")
    return with_model(after=[helper.make_node(operator, ["y", *more], ["features"])], constants=[zero])


BROKEN: list[tuple[str, Callable[[], Any]]] = [
    ("is_a_backbone", object),
    ("info_is_sound", lambda: with_info(weights_sha256="ABC")),
    ("info_is_sound", lambda: with_info(n_parameters=0)),
    ("info_is_sound", lambda: with_info(licence="")),
    ("info_is_sound", lambda: TinyBackbone(info={"name": "tiny"})),  # type: ignore[arg-type]
    ("last_tap_is_features", lambda: with_taps(Tap("features", 6), Tap("stage1", 4))),
    ("last_tap_is_features", lambda: with_taps(Tap("features", 6), Tap("features", 6))),
    ("last_tap_is_features", lambda: with_taps(Tap("features", 0))),
    ("last_tap_is_features", with_taps),
    (
        "image_spec_is_usable",
        lambda: with_info(image=replace(IMAGE, mean=(0.48, 0.45, 0.4), std=(0.2, 0.2, 0.2))),
    ),
    ("image_spec_is_usable", lambda: with_info(image=replace(IMAGE, std=(-1.0, 1.0, 1.0)))),
    ("image_spec_is_usable", lambda: with_info(image=replace(IMAGE, mean=(1.0, 2.0)))),
    ("info_is_stable", ChangingInfo),
    ("info_is_picklable", unpicklable),
    ("unwritable_path", SilentExport),
    ("unwritable_path", OddErrorExport),
    ("export_works", NoExport),
    ("single_file", ExternalExport),
    ("input_signature", lambda: with_model(input_name="image")),
    ("input_signature", lambda: with_info(image=replace(IMAGE, layout="NHWC"))),
    ("outputs_are_the_taps", lambda: with_taps(Tap("stage1", 5), Tap("features", 6))),
    ("outputs_are_the_taps", lambda: with_taps(Tap("features", 6))),
    ("batch_is_free", lambda: with_model(batch=1)),
    ("all_finite", lambda: after("Log")),
    ("deterministic", noisy),
    ("alone_or_in_a_batch", batch_centred),
    ("inference_mode", training_batch_norm),
    ("inference_mode", training_dropout),
    ("features_tell_images_apart", lambda: after("Mul", "zero")),
    ("export_repeats", changing_weights),
    ("torch_module_agrees", DisagreeingModule),
    ("torch_module_agrees", TupleModule),
    ("blocks_cover_parameters", lambda: BlocksWith(lambda net: (net.first,))),
    ("blocks_cover_parameters", lambda: BlocksWith(lambda net: (net.first, net))),
    ("blocks_cover_parameters", lambda: BlocksWith(lambda net: (net, torch.nn.Linear(1, 1)))),
    ("torch_module_is_a_copy", SharedModule),
]


@pytest.mark.parametrize(("check", "broken"), BROKEN)
def test_a_broken_promise_is_caught_by_its_own_check(check: str, broken: Callable[[], Any]) -> None:
    with pytest.raises(CheckFailed, match=check) as caught:
        check_backbone(broken(), checks=[check])
    assert caught.value.check == check
    assert caught.value.promise in str(caught.value)
    with pytest.raises(CheckFailed):
        check_backbone(broken())


def test_every_check_is_proven_here() -> None:
    assert {check for check, _ in BROKEN} == {check.name for check in CHECKS}


def test_dropout_that_is_off_is_no_training_mode() -> None:
    check_backbone(
        with_model(before=[helper.make_node("Dropout", ["input"], ["x"])]), checks=["inference_mode"]
    )


def test_a_misspelt_check_is_told() -> None:
    with pytest.raises(ValueError, match="no such checks: finite"):
        check_backbone(TinyBackbone(), checks=["finite"])
