"""Backbones that break one promise each, under the name of the check that must find them."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.plugin_host.tiny import IMAGE, INFO, TinyBackbone, tiny_model, with_info, with_model
from tests.testing import networks
from tests.testing.networks import BlocksWith, TinyTrainable, trainable
from tlserve.plugin_api import Backbone, BackboneInfo, Tap

PLAIN = replace(IMAGE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Pixels go in as they are."""


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
        try:
            super().export(path)
        except OSError:
            return


class OddErrorExport(TinyBackbone):
    def export(self, path: Path) -> None:
        try:
            super().export(path)
        except OSError as exc:
            raise KeyError(path) from exc


class LeavingExport(TinyBackbone):
    """As a command-line program does it."""

    def export(self, path: Path) -> None:
        try:
            super().export(path)
        except OSError as exc:
            sys.exit(str(exc))


class ClosedByAnError(TinyBackbone):
    _closed = False

    def export(self, path: Path) -> None:
        if self._closed:
            raise ValueError("the weights are closed")
        try:
            super().export(path)
        except OSError:
            self._closed = True
            raise


class JunkExport(TinyBackbone):
    def export(self, path: Path) -> None:
        path.write_bytes(b"junk")


class ExternalExport(TinyBackbone):
    def export(self, path: Path) -> None:
        onnx.save(tiny_model(), path, save_as_external_data=True, location="more", size_threshold=0)


def changing_weights() -> Backbone:
    seeds = itertools.count()
    return TinyBackbone(make_model=lambda: tiny_model(seed=next(seeds)))


def before(operator: str, constant: Any = None, *, image: Any = IMAGE) -> Backbone:
    """With one more operator at the input."""
    held = [] if constant is None else [numpy_helper.from_array(np.array(constant, np.float32), "constant")]
    node = helper.make_node(operator, ["input", *(tensor.name for tensor in held)], ["x"])
    return TinyBackbone(replace(INFO, image=image), lambda: tiny_model(before=[node], constants=held))


def after(operator: str, *more: str) -> Backbone:
    """With one more operator at the end."""
    zero = numpy_helper.from_array(np.array(0.0, np.float32), "zero")
    return with_model(after=[helper.make_node(operator, ["y", *more], ["features"])], constants=[zero])


def clipped_to_one() -> Backbone:
    ends = [numpy_helper.from_array(np.array(end, np.float32), f"end{end}") for end in (0, 1)]
    node = helper.make_node("Clip", ["input", "end0", "end1"], ["x"])
    return TinyBackbone(replace(INFO, image=PLAIN), lambda: tiny_model(before=[node], constants=ends))


def batch_norm(*, image: Any = IMAGE, training: bool = False) -> Backbone:
    """A batch norm at the input that has learnt values of mean 1 and variance 1."""
    names = ("scale", "bias", "mean_in", "var_in")
    constants = [numpy_helper.from_array(np.ones(3, np.float32), name) for name in names]
    outputs = ["x", "mean_out", "var_out"] if training else ["x"]
    node = helper.make_node("BatchNormalization", ["input", *names], outputs, training_mode=int(training))
    return TinyBackbone(replace(INFO, image=image), lambda: tiny_model(before=[node], constants=constants))


def training_dropout() -> Backbone:
    constants = [
        numpy_helper.from_array(np.array(0.5, np.float32), "ratio"),
        numpy_helper.from_array(np.array(True), "training"),
    ]
    return with_model(
        before=[helper.make_node("Dropout", ["input", "ratio", "training"], ["x"])], constants=constants
    )


def noisy() -> Backbone:
    noise = helper.make_node("RandomNormalLike", ["y"], ["noise"])
    return with_model(after=[noise, helper.make_node("Add", ["y", "noise"], ["features"])])


def batch_centred() -> Backbone:
    mean = helper.make_node("ReduceMean", ["input"], ["batch_mean"], axes=[0], keepdims=1)
    return with_model(before=[mean, helper.make_node("Sub", ["input", "batch_mean"], ["x"])])


def any_size_in_name_only() -> Backbone:
    """Height and width look free, but a reshape inside knows one size."""
    shape = numpy_helper.from_array(np.array([-1, 3, 8, 8], np.int64), "shape")

    def model() -> Any:
        made = tiny_model(before=[helper.make_node("Reshape", ["input", "shape"], ["x"])], constants=[shape])
        free = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, "H", "W"])
        made.graph.input[0].CopyFrom(free)
        return made

    return TinyBackbone(replace(INFO, image=replace(IMAGE, height=10, width=10)), model)


def knows_its_batch(n_images: int) -> Backbone:
    """The input looks free, but a reshape inside knows the number of pictures."""
    shape = numpy_helper.from_array(np.array([n_images, 3, 8, 8], np.int64), "shape")
    return with_model(before=[helper.make_node("Reshape", ["input", "shape"], ["x"])], constants=[shape])


def deep_tap_first() -> Backbone:
    """stage1 is made from what `features` is made from, one layer further."""
    more = numpy_helper.from_array(np.ones((6, 4), np.float32), "more")

    def model() -> Any:
        last = [helper.make_node("Identity", ["y"], ["features"])]
        made = tiny_model(
            after=[*last, helper.make_node("MatMul", ["y", "more"], ["deeper"])], constants=[more]
        )
        for node in made.graph.node:
            for names in (node.input, node.output):
                names[:] = [{"stage1": "stage", "deeper": "stage1"}.get(name, name) for name in names]
        return made

    return TinyBackbone(make_model=model)


def with_image(**changes: Any) -> Backbone:
    return with_info(image=replace(IMAGE, **changes))


def with_taps(*taps: Tap) -> Backbone:
    return with_info(taps=taps)


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
    ("licence_and_origin", lambda: with_info(licence="TODO")),
    ("licence_and_origin", lambda: with_info(weights_origin="unknown")),
    ("digest_is_real", lambda: with_info(weights_sha256="0" * 64)),
    ("digest_is_real", lambda: with_info(weights_sha256=hashlib.sha256().hexdigest())),
    ("info_is_stable", ChangingInfo),
    ("info_is_picklable", unpicklable),
    ("info_is_plain", lambda: with_info(n_parameters=np.int64(36))),
    ("info_is_plain", lambda: with_image(mean=tuple(np.float32([100, 110, 120])))),
    ("info_is_plain", lambda: with_image(mean=[100.0, 110.0, 120.0])),
    ("image_spec_is_usable", lambda: with_image(std=(-1.0, 1.0, 1.0))),
    ("image_spec_is_usable", lambda: with_image(mean=(1.0, 2.0))),
    ("pixel_units", lambda: with_image(mean=(0.48, 0.45, 0.4), std=(0.2, 0.2, 0.2))),
    ("pixel_units", lambda: with_image(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
    ("pixel_units", lambda: with_image(std=(58.395 * 255, 57.12 * 255, 57.375 * 255))),
    ("channel_order", lambda: with_image(mean=(103.53, 116.28, 123.675))),
    ("channel_order", lambda: with_image(mean=(123.68, 116.78, 103.94), channel_order="BGR")),
    ("export_works", JunkExport),
    ("single_file", ExternalExport),
    ("opset", lambda: with_model(opset=6)),
    ("input_signature", lambda: with_model(input_name="image")),
    ("input_signature", lambda: with_image(layout="NHWC")),
    ("image_size", lambda: with_image(height=10, width=10)),
    ("image_size", any_size_in_name_only),
    ("outputs_are_the_taps", lambda: with_taps(Tap("stage1", 5), Tap("features", 6))),
    ("outputs_are_the_taps", lambda: with_taps(Tap("features", 6))),
    ("taps_run_deeper", deep_tap_first),
    ("parameters_are_counted", lambda: with_info(n_parameters=1_000_000)),
    ("parameters_are_counted", lambda: TinyTrainable(replace(INFO, n_parameters=37))),
    ("inference_mode", lambda: batch_norm(training=True)),
    ("inference_mode", training_dropout),
    ("inference_mode", noisy),
    ("batch_is_free", lambda: with_model(batch=1)),
    ("batch_is_free", lambda: with_model(batch=2)),
    ("batch_is_free", lambda: knows_its_batch(1)),
    ("batch_is_free", lambda: knows_its_batch(2)),
    ("all_finite", lambda: after("Log")),
    ("all_finite", lambda: before("Sqrt")),
    ("deterministic", noisy),
    ("alone_or_in_a_batch", batch_centred),
    ("features_tell_images_apart", lambda: after("Mul", "zero")),
    ("every_channel_counts", lambda: before("Mul", [[[1]], [[1]], [[0]]])),
    ("full_pixel_range", clipped_to_one),
    ("full_pixel_range", lambda: before("Relu", image=replace(IMAGE, mean=(127.5, 127.5, 127.5)))),
    ("normalised_once", lambda: before("Div", 255.0)),
    ("normalised_once", lambda: before("Div", [[[0.229]], [[0.224]], [[0.225]]])),
    ("normalised_once", lambda: before("Mul", 255.0, image=PLAIN)),
    ("range_fits", lambda: batch_norm(image=PLAIN)),
    ("range_fits", lambda: trainable(networks.TrainedOnOtherValues)),
    ("unwritable_path", SilentExport),
    ("unwritable_path", OddErrorExport),
    ("unwritable_path", LeavingExport),
    ("works_after_a_failed_export", ClosedByAnError),
    ("export_repeats", changing_weights),
    ("torch_channel_order", lambda: trainable(networks.BlueFirst)),
    ("torch_module_agrees", lambda: trainable(networks.Louder)),
    ("torch_module_agrees", lambda: trainable(networks.TupleOfTaps)),
    ("torch_module_infers", lambda: trainable(networks.AlwaysDropping)),
    ("torch_module_infers", lambda: trainable(networks.NeverEvaluating)),
    ("torch_module_infers", lambda: trainable(networks.BatchStatistics)),
    ("blocks_cover_parameters", lambda: BlocksWith(lambda net: (net.first,))),
    ("blocks_cover_parameters", lambda: BlocksWith(lambda net: (net.first, net))),
    ("blocks_cover_parameters", lambda: BlocksWith(lambda net: (net, torch.nn.Linear(1, 1)))),
    ("blocks_run_deeper", lambda: BlocksWith(lambda net: (net.second, net.first))),
    ("every_block_learns", lambda: trainable(networks.FrozenFirst)),
    ("every_block_learns", lambda: trainable(networks.Detached)),
    ("every_block_learns", lambda: trainable(networks.TupleInTraining)),
    ("torch_module_is_a_copy", networks.SharedModule),
    ("torch_module_is_fresh", networks.KeptModule),
]
