"""What the server says about backbones, as plain dataclasses. The reverse is in tlserve.rpc.messages."""

from __future__ import annotations

from typing import Any

from tlserve.client.answers import optional
from tlserve.client.errors import ServerProblem
from tlserve.core.backbones import BackboneDescription, Speed
from tlserve.core.precision import PrecisionTrial
from tlserve.plugin_api import BackboneInfo, ImageSpec, Tap
from tlserve.rpc._gen import tlserve_v1_pb2 as v1
from tlserve.rpc.backend import BackboneLine


def read_backbone(line: v1.BackboneLine) -> BackboneLine:
    return BackboneLine(
        name=line.name,
        plugin=line.plugin,
        detail=line.detail,
        error=optional(line, "error"),
        licence=optional(line, "licence"),
        n_parameters=optional(line, "n_parameters"),
        height=optional(line, "height"),
        width=optional(line, "width"),
        row_width=optional(line, "row_width"),
        images_per_second=optional(line, "images_per_second"),
        measured=line.measured,
    )


def read_description(found: v1.Backbone) -> BackboneDescription:
    """Raises ServerProblem when the server declares what no backbone may."""
    try:
        info = _info(found)
    except ValueError as exc:
        raise ServerProblem(f"the server describes a backbone that cannot be: {exc}", "INTERNAL") from exc
    return BackboneDescription(
        name=found.name,
        plugin=found.plugin,
        source=found.source,
        info=info,
        trainable=found.trainable,
        build=found.build,
        build_folder=found.build_folder,
        build_bytes=found.build_bytes,
        speeds=tuple(_speed(speed) for speed in found.speeds),
        precision=found.precision or "fp32",
        trial=_trial(found.trial) if found.HasField("trial") else None,
    )


def _info(found: v1.Backbone) -> BackboneInfo:
    image: Any = found.image
    return BackboneInfo(
        name=found.declared_name,
        licence=found.licence,
        n_parameters=found.n_parameters,
        weights_origin=found.weights_origin,
        weights_sha256=found.weights_sha256,
        build_version=found.build_version,
        image=ImageSpec(
            height=image.height,
            width=image.width,
            resize_short_side=optional(image, "resize_short_side"),
            mean=tuple(image.mean),
            std=tuple(image.std),
            crop=image.crop,
            interpolation=image.interpolation,
            layout=image.layout,
            channel_order=image.channel_order,
        ),
        taps=tuple(Tap(tap.name, tap.width) for tap in found.taps),
    )


def _trial(trial: Any) -> PrecisionTrial:
    return PrecisionTrial(
        chosen=trial.chosen,
        tried=trial.tried,
        reason=trial.reason,
        n_images=trial.n_images,
        accuracy=optional(trial, "accuracy"),
        accuracy_tried=optional(trial, "accuracy_tried"),
        images_per_second=optional(trial, "images_per_second"),
        images_per_second_tried=optional(trial, "images_per_second_tried"),
        hardware=trial.hardware,
        decided_at=trial.decided_at,
    )


def _speed(speed: Any) -> Speed:
    return Speed(
        of=speed.of,
        batch_size=speed.batch_size,
        images_per_second=speed.images_per_second,
        device=speed.device,
        hardware=speed.hardware,
        threads=speed.threads,
        measured_at=speed.measured_at,
    )
