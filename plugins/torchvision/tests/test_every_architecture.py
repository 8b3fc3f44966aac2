"""Each of torchvision's classifiers, exported with random weights and run beside torch: an hour in all.

A few small ones of several families always run; the rest with TLSERVE_SLOW_TESTS=1, the largest last,
one at a time. `matrix.py` beside the package writes down what it finds for all of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tlserve_torchvision import PLUGIN, catalogue

from tlserve.plugin_api import BackboneError
from tlserve.testing import CHECKS, check_backbone

QUICK = ("shufflenet_v2_x0_5", "regnet_y_400mf")
THOROUGHLY = ("resnet50", "vgg16", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t", "inception_v3")
TOO_LARGE = ("vit_h_14", "regnet_y_128gf")
MORE_THAN_ONE_EXPORT = {
    "unwritable_path",
    "works_after_a_failed_export",
    "export_repeats",
    "torch_module_is_a_copy",
}

slow = pytest.mark.skipif(
    "TLSERVE_SLOW_TESTS" not in os.environ, reason="takes an hour together; set TLSERVE_SLOW_TESTS=1"
)


def by_size() -> list[str]:
    sizes = {entry.architecture: entry.n_parameters for entry in catalogue.entries().values()}
    return sorted(sizes, key=lambda name: sizes[name])


def each() -> list[object]:
    """Every architecture, marked slow where it is."""
    marks = (pytest.mark.slow, slow)
    return [name if name in QUICK else pytest.param(name, marks=marks) for name in by_size()]


@pytest.mark.timeout(1800)  # some take a minute on an idle machine, and many on a busy one
@pytest.mark.parametrize("architecture", each())
def test_it_exports_what_torch_computes(architecture: str, tmp_path: Path) -> None:
    if architecture in TOO_LARGE:
        with pytest.raises(BackboneError, match=r"2\.\d GB of weights do not fit in one ONNX file"):
            PLUGIN.load(f"{architecture}@random")
        return
    backbone = PLUGIN.load(f"{architecture}@random")
    info, facts = backbone.info, PLUGIN.facts(architecture)
    assert facts is not None
    row_width = sum(tap.width for tap in info.taps)
    assert (facts.n_parameters, facts.row_width) == (info.n_parameters, row_width)
    assert (facts.height, facts.width) == (info.image.height, info.image.width)
    once = {check.name for check in CHECKS} - MORE_THAN_ONE_EXPORT
    check_backbone(backbone, checks=None if architecture in THOROUGHLY else once)
