"""What timm's configuration of a network declares: pictures, licence and origin, in the terms of tlserve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from timm.models import PretrainedCfg, get_pretrained_cfg

from tlserve.plugin_api import BackboneError, ImageSpec, Interpolation

from .choice import Choice

_SPDX = {
    "apache-2.0": "Apache-2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "mit": "MIT",
}


def table_entry(choice: Choice) -> Any:
    """timm's entry for the network and its weights; of timm's defaults where it has none.

    Returns a timm.models.PretrainedCfg.
    """
    return get_pretrained_cfg(choice.full_name) or PretrainedCfg()


def licence_of(entry: Any) -> str:
    """Of the weights, as an SPDX identifier where timm's own word for it is one."""
    known = str(entry.license or "unknown").lower()
    if known != "unknown":
        return _SPDX.get(known, known)
    return f"unknown: timm does not say, see {address_of(entry) or 'where the weights come from'}"


def address_of(entry: Any) -> str:
    """Where timm downloads the weights from."""
    return f"https://huggingface.co/{entry.hf_hub_id}" if entry.hf_hub_id else str(entry.url or "")


def image_of(fields: Mapping[str, Any], name: str) -> ImageSpec:
    """How timm prepares pictures when it evaluates, in pixel units.

    fields: input_size, crop_pct, crop_mode, interpolation, mean and std, as in timm's data configuration.
    Raises BackboneError for inputs that are no pictures of three channels.
    """
    channels, height, width = fields["input_size"]
    if channels != 3:
        raise BackboneError(f"{name} takes pictures of {channels} channels; tlserve gives three")
    # timm's `squash` and `border` lose nothing of the picture; neither does a resize without a crop.
    whole = fields["crop_mode"] in ("squash", "border")
    enlarged = math.floor(max(height, width) / fields["crop_pct"])
    return ImageSpec(
        height=height,
        width=width,
        # timm pads where the enlarged picture is still smaller than the crop; a little larger comes nearest.
        resize_short_side=None if whole else max(enlarged, height, width),
        mean=_pixel_units(fields["mean"]),
        std=_pixel_units(fields["std"]),
        crop="none" if whole else "center",
        interpolation=_interpolation(str(fields["interpolation"])),
    )


def _pixel_units(values: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = (round(value * 255.0, 6) for value in values)
    return red, green, blue


def _interpolation(name: str) -> Interpolation:
    """timm's names are Pillow's; `random`, for training, has no one counterpart."""
    known: tuple[Interpolation, ...] = get_args(Interpolation)
    return next((one for one in known if one == name), "bicubic")
