"""What torchvision offers, known without importing it: a listing has to be quick, torch takes seconds.

One line per set of weights, torchvision's default of an architecture first: architecture, name of the
weights, side of the input in pixels, parameters without the classifier, widths of the taps. The tests hold
every number to the installed torchvision. An architecture that is newer than this table loads all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tlserve.plugin_api import BackboneFacts

RANDOM = "random"
RANDOM_LICENCE = "none"
FEATURES_ONLY = "IMAGENET1K_FEATURES"
"""Weights of VGG16 whose fully connected layers hold no numbers: the network ends at its last pooling."""

_TABLE = """
alexnet IMAGENET1K_V1 224 57003840 64+192+256+4096
convnext_base IMAGENET1K_V1 224 87566464 128+256+512+1024
convnext_large IMAGENET1K_V1 224 196230336 192+384+768+1536
convnext_small IMAGENET1K_V1 224 49454688 96+192+384+768
convnext_tiny IMAGENET1K_V1 224 27820128 96+192+384+768
densenet121 IMAGENET1K_V1 224 6953856 256+512+1024+1024
densenet161 IMAGENET1K_V1 224 26472000 384+768+2112+2208
densenet169 IMAGENET1K_V1 224 12484480 256+512+1280+1664
densenet201 IMAGENET1K_V1 224 18092928 256+512+1792+1920
efficientnet_b0 IMAGENET1K_V1 224 4007548 24+40+112+320+1280
efficientnet_b1 IMAGENET1K_V2 240 6513184 24+40+112+320+1280
efficientnet_b1 IMAGENET1K_V1 240 6513184 24+40+112+320+1280
efficientnet_b2 IMAGENET1K_V1 288 7700994 24+48+120+352+1408
efficientnet_b3 IMAGENET1K_V1 300 10696232 32+48+136+384+1536
efficientnet_b4 IMAGENET1K_V1 380 17548616 32+56+160+448+1792
efficientnet_b5 IMAGENET1K_V1 456 28340784 40+64+176+512+2048
efficientnet_b6 IMAGENET1K_V1 528 40735704 40+72+200+576+2304
efficientnet_b7 IMAGENET1K_V1 600 63786960 48+80+224+640+2560
efficientnet_v2_l IMAGENET1K_V1 480 117234272 64+96+224+640+1280
efficientnet_v2_m IMAGENET1K_V1 480 52858356 48+80+176+512+1280
efficientnet_v2_s IMAGENET1K_V1 384 20177488 48+64+160+256+1280
googlenet IMAGENET1K_V1 224 5599904 192+480+832+1024
inception_v3 IMAGENET1K_V1 299 21785568 64+192+288+768+2048
maxvit_t IMAGENET1K_V1 224 30407624 64+128+256+512+512
mnasnet0_5 IMAGENET1K_V1 224 937512 16+24+48+160+1280
mnasnet0_75 IMAGENET1K_V1 224 1889208 24+32+72+240+1280
mnasnet1_0 IMAGENET1K_V1 224 3102312 24+40+96+320+1280
mnasnet1_3 IMAGENET1K_V1 224 5001256 32+56+128+416+1280
mobilenet_v2 IMAGENET1K_V2 224 2223872 24+32+96+320+1280
mobilenet_v2 IMAGENET1K_V1 224 2223872 24+32+96+320+1280
mobilenet_v3_large IMAGENET1K_V2 224 4202032 24+40+112+160+1280
mobilenet_v3_large IMAGENET1K_V1 224 4202032 24+40+112+160+1280
mobilenet_v3_small IMAGENET1K_V1 224 1517856 16+24+48+96+1024
regnet_x_16gf IMAGENET1K_V2 224 52229536 256+512+896+2048
regnet_x_16gf IMAGENET1K_V1 224 52229536 256+512+896+2048
regnet_x_1_6gf IMAGENET1K_V2 224 8277136 72+168+408+912
regnet_x_1_6gf IMAGENET1K_V1 224 8277136 72+168+408+912
regnet_x_32gf IMAGENET1K_V2 224 105290560 336+672+1344+2520
regnet_x_32gf IMAGENET1K_V1 224 105290560 336+672+1344+2520
regnet_x_3_2gf IMAGENET1K_V2 224 14287552 96+192+432+1008
regnet_x_3_2gf IMAGENET1K_V1 224 14287552 96+192+432+1008
regnet_x_400mf IMAGENET1K_V2 224 5094976 32+64+160+400
regnet_x_400mf IMAGENET1K_V1 224 5094976 32+64+160+400
regnet_x_800mf IMAGENET1K_V2 224 6586656 64+128+288+672
regnet_x_800mf IMAGENET1K_V1 224 6586656 64+128+288+672
regnet_x_8gf IMAGENET1K_V2 224 37651648 80+240+720+1920
regnet_x_8gf IMAGENET1K_V1 224 37651648 80+240+720+1920
regnet_y_128gf IMAGENET1K_SWAG_E2E_V1 384 637419894 528+1056+2904+7392
regnet_y_128gf IMAGENET1K_SWAG_LINEAR_V1 224 637419894 528+1056+2904+7392
regnet_y_16gf IMAGENET1K_V2 224 80565140 224+448+1232+3024
regnet_y_16gf IMAGENET1K_V1 224 80565140 224+448+1232+3024
regnet_y_16gf IMAGENET1K_SWAG_E2E_V1 384 80565140 224+448+1232+3024
regnet_y_16gf IMAGENET1K_SWAG_LINEAR_V1 224 80565140 224+448+1232+3024
regnet_y_1_6gf IMAGENET1K_V2 224 10313430 48+120+336+888
regnet_y_1_6gf IMAGENET1K_V1 224 10313430 48+120+336+888
regnet_y_32gf IMAGENET1K_V2 224 141333770 232+696+1392+3712
regnet_y_32gf IMAGENET1K_V1 224 141333770 232+696+1392+3712
regnet_y_32gf IMAGENET1K_SWAG_E2E_V1 384 141333770 232+696+1392+3712
regnet_y_32gf IMAGENET1K_SWAG_LINEAR_V1 224 141333770 232+696+1392+3712
regnet_y_3_2gf IMAGENET1K_V2 224 17923338 72+216+576+1512
regnet_y_3_2gf IMAGENET1K_V1 224 17923338 72+216+576+1512
regnet_y_400mf IMAGENET1K_V2 224 3903144 48+104+208+440
regnet_y_400mf IMAGENET1K_V1 224 3903144 48+104+208+440
regnet_y_800mf IMAGENET1K_V2 224 5647512 64+144+320+784
regnet_y_800mf IMAGENET1K_V1 224 5647512 64+144+320+784
regnet_y_8gf IMAGENET1K_V2 224 37364472 224+448+896+2016
regnet_y_8gf IMAGENET1K_V1 224 37364472 224+448+896+2016
resnet101 IMAGENET1K_V2 224 42500160 256+512+1024+2048
resnet101 IMAGENET1K_V1 224 42500160 256+512+1024+2048
resnet152 IMAGENET1K_V2 224 58143808 256+512+1024+2048
resnet152 IMAGENET1K_V1 224 58143808 256+512+1024+2048
resnet18 IMAGENET1K_V1 224 11176512 64+128+256+512
resnet34 IMAGENET1K_V1 224 21284672 64+128+256+512
resnet50 IMAGENET1K_V2 224 23508032 256+512+1024+2048
resnet50 IMAGENET1K_V1 224 23508032 256+512+1024+2048
resnext101_32x8d IMAGENET1K_V2 224 86742336 256+512+1024+2048
resnext101_32x8d IMAGENET1K_V1 224 86742336 256+512+1024+2048
resnext101_64x4d IMAGENET1K_V1 224 81406272 256+512+1024+2048
resnext50_32x4d IMAGENET1K_V2 224 22979904 256+512+1024+2048
resnext50_32x4d IMAGENET1K_V1 224 22979904 256+512+1024+2048
shufflenet_v2_x0_5 IMAGENET1K_V1 224 341792 48+96+192+1024
shufflenet_v2_x1_0 IMAGENET1K_V1 224 1253604 116+232+464+1024
shufflenet_v2_x1_5 IMAGENET1K_V1 224 2478624 176+352+704+1024
shufflenet_v2_x2_0 IMAGENET1K_V1 224 5344996 244+488+976+2048
squeezenet1_0 IMAGENET1K_V1 224 735424 96+256+512+512
squeezenet1_1 IMAGENET1K_V1 224 722496 64+128+256+512
swin_b IMAGENET1K_V1 224 86743224 128+256+512+1024
swin_s IMAGENET1K_V1 224 48837258 96+192+384+768
swin_t IMAGENET1K_V1 224 27519354 96+192+384+768
swin_v2_b IMAGENET1K_V1 256 86905848 128+256+512+1024
swin_v2_s IMAGENET1K_V1 256 48968442 96+192+384+768
swin_v2_t IMAGENET1K_V1 256 27582570 96+192+384+768
vgg11 IMAGENET1K_V1 224 128766336 64+128+256+512+512+4096
vgg11_bn IMAGENET1K_V1 224 128771840 64+128+256+512+512+4096
vgg13 IMAGENET1K_V1 224 128950848 64+128+256+512+512+4096
vgg13_bn IMAGENET1K_V1 224 128956736 64+128+256+512+512+4096
vgg16 IMAGENET1K_V1 224 134260544 64+128+256+512+512+4096
vgg16 IMAGENET1K_FEATURES 224 14714688 64+128+256+512+512
vgg16_bn IMAGENET1K_V1 224 134268992 64+128+256+512+512+4096
vgg19 IMAGENET1K_V1 224 139570240 64+128+256+512+512+4096
vgg19_bn IMAGENET1K_V1 224 139581248 64+128+256+512+512+4096
vit_b_16 IMAGENET1K_V1 224 85798656 768+768+768+768+768
vit_b_16 IMAGENET1K_SWAG_E2E_V1 384 86090496 768+768+768+768+768
vit_b_16 IMAGENET1K_SWAG_LINEAR_V1 224 85798656 768+768+768+768+768
vit_b_32 IMAGENET1K_V1 224 87455232 768+768+768+768+768
vit_h_14 IMAGENET1K_SWAG_E2E_V1 518 632189440 1280+1280+1280+1280+1280
vit_h_14 IMAGENET1K_SWAG_LINEAR_V1 224 630764800 1280+1280+1280+1280+1280
vit_l_16 IMAGENET1K_V1 224 303301632 1024+1024+1024+1024+1024
vit_l_16 IMAGENET1K_SWAG_E2E_V1 512 304149504 1024+1024+1024+1024+1024
vit_l_16 IMAGENET1K_SWAG_LINEAR_V1 224 303301632 1024+1024+1024+1024+1024
vit_l_32 IMAGENET1K_V1 224 305510400 1024+1024+1024+1024+1024
wide_resnet101_2 IMAGENET1K_V2 224 124837696 256+512+1024+2048
wide_resnet101_2 IMAGENET1K_V1 224 124837696 256+512+1024+2048
wide_resnet50_2 IMAGENET1K_V2 224 66834240 256+512+1024+2048
wide_resnet50_2 IMAGENET1K_V1 224 66834240 256+512+1024+2048
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One set of weights of one architecture."""

    architecture: str
    weights: str
    is_default: bool
    side_pixels: int
    n_parameters: int
    """Without the classifier."""
    widths: tuple[int, ...]
    """Of the taps, shallow to deep."""

    def facts(self, licence: str) -> BackboneFacts:
        return BackboneFacts(
            licence=licence,
            n_parameters=self.n_parameters,
            height=self.side_pixels,
            width=self.side_pixels,
            row_width=sum(self.widths),
        )


@cache
def entries() -> dict[tuple[str, str], Entry]:
    """Every set of weights by architecture and name; the default also by ""."""
    found: dict[tuple[str, str], Entry] = {}
    for line in _TABLE.split("\n"):
        if not line:
            continue
        architecture, weights, side, n_parameters, widths = line.split()
        is_default = (architecture, "") not in found
        entry = Entry(
            architecture,
            weights,
            is_default,
            int(side),
            int(n_parameters),
            tuple(int(width) for width in widths.split("+")),
        )
        found[architecture, weights] = entry
        if is_default:
            found[architecture, ""] = entry
    return found


def names() -> tuple[str, ...]:
    """Each architecture (for its default weights), and `ARCH@WEIGHTS` for every other set."""
    return tuple(
        architecture if not weights else f"{architecture}@{weights}"
        for (architecture, weights), entry in entries().items()
        if not weights or not entry.is_default
    )


def licence_of(weights: str) -> str:
    """Of torchvision's weights by this name.

    torchvision states one for the SWAG weights of Meta only. The others come with its own; whether they may
    be used for a purpose also depends on the pictures they were trained on (ImageNet), as its README says.
    """
    return "CC-BY-NC-4.0" if "SWAG" in weights else "BSD-3-Clause (torchvision's)"


def facts(rest: str) -> BackboneFacts | None:
    """What is known about `ARCH`, `ARCH@WEIGHTS` or `ARCH@random`; None for files and unknown names."""
    architecture, _, choice = rest.partition("@")
    is_random = choice == RANDOM
    entry = entries().get((architecture, "" if is_random else choice))
    if entry is None:
        return None
    return entry.facts(RANDOM_LICENCE if is_random else licence_of(entry.weights))
