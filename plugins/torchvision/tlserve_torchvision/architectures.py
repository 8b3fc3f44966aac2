"""Where the stages of each architecture end: the places where its taps stand.

An architecture that is not here still loads if torchvision has it, with one tap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Activations = Literal["maps", "maps_channels_last", "tokens"]
"""[N, C, h, w]; [N, h, w, C]; [N, 1 + patches, C] with the class token first."""

EVERY_POOLING: Literal["every pooling"] = "every pooling"
"""In place of module paths: a stage ends at each max pooling of the network's `features`."""


@dataclass(frozen=True, slots=True)
class Family:
    """Where the stages of some architectures end, from shallow to deep, before `features`.

    A last stage whose average would equal `features` is left out: it would be stored twice.
    """

    names: str
    """Regular expression over the whole name."""
    stages: tuple[str, ...] | Literal["every pooling"]
    """Module paths."""
    activations: Activations = "maps"


def _numbered(path: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{path}{number}" for number in numbers)


FAMILIES: tuple[Family, ...] = (
    Family(r"(wide_)?resnet.*|resnext.*", _numbered("layer", 1, 2, 3)),
    Family(r"vgg.*|alexnet|squeezenet.*", EVERY_POOLING),
    Family(r"mobilenet_v2", _numbered("features.", 3, 6, 13, 17)),
    Family(r"mobilenet_v3_large", _numbered("features.", 3, 6, 12, 15)),
    Family(r"mobilenet_v3_small", _numbered("features.", 1, 3, 8, 11)),
    Family(r"efficientnet_b\d|efficientnet_v2_[ml]", _numbered("features.", 2, 3, 5, 7)),
    Family(r"efficientnet_v2_s", _numbered("features.", 2, 3, 5, 6)),
    Family(r"convnext_.*", _numbered("features.", 1, 3, 5)),
    Family(r"densenet\d+", _numbered("features.denseblock", 1, 2, 3)),
    Family(r"regnet_.*", _numbered("trunk_output.block", 1, 2, 3)),
    Family(r"inception_v3", ("maxpool1", "maxpool2", "Mixed_5d", "Mixed_6e")),
    Family(r"googlenet", ("maxpool2", "inception3b", "inception4e")),
    Family(r"shufflenet_.*", _numbered("stage", 2, 3, 4)),
    Family(r"mnasnet.*", _numbered("layers.", 8, 9, 11, 13)),
    Family(r"swin_.*", _numbered("features.", 1, 3, 5), "maps_channels_last"),
    Family(r"maxvit_t", _numbered("blocks.", 0, 1, 2, 3)),
    Family(r"vit_b_.*", _numbered("encoder.layers.encoder_layer_", 2, 5, 8, 11), "tokens"),
    Family(r"vit_l_.*", _numbered("encoder.layers.encoder_layer_", 5, 11, 17, 23), "tokens"),
    Family(r"vit_h_.*", _numbered("encoder.layers.encoder_layer_", 7, 15, 23, 31), "tokens"),
)


def family_of(architecture: str) -> Family:
    """The family of an architecture; one without stages when it is not known."""
    for family in FAMILIES:
        if re.fullmatch(family.names, architecture):
            return family
    return Family(re.escape(architecture), ())
