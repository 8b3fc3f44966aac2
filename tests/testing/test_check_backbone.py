"""Each check of the kit passes on a sound backbone and catches a deliberately broken one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.plugin_host.tiny import IMAGE, INFO, TinyBackbone, tiny_model, with_model
from tests.testing.faults import BROKEN, PLAIN, batch_norm, before
from tests.testing.networks import TinyTrainable
from tlserve.testing import CHECKS, CheckFailed, check_backbone


def test_a_sound_backbone_passes_every_check() -> None:
    check_backbone(TinyBackbone())
    check_backbone(TinyTrainable())


def test_a_sound_backbone_with_channels_last_and_blue_first_passes_every_check() -> None:
    image = replace(IMAGE, layout="NHWC", channel_order="BGR")
    check_backbone(TinyBackbone(replace(INFO, image=image), lambda: tiny_model(layout="NHWC")))


@pytest.mark.parametrize(("check", "broken"), BROKEN)
def test_a_broken_promise_is_caught_by_its_own_check(check: str, broken: Callable[[], Any]) -> None:
    with pytest.raises(CheckFailed) as caught:
        check_backbone(broken(), checks=[check])
    assert caught.value.check == check
    assert str(caught.value).startswith(f"{check}: {caught.value.promise}; ")
    assert caught.value.found
    with pytest.raises(CheckFailed):
        check_backbone(broken())


def test_every_check_is_proven_here() -> None:
    assert {check for check, _ in BROKEN} == {check.name for check in CHECKS}


def test_what_is_found_is_told_in_numbers_and_names() -> None:
    found = {}
    for check, broken in reversed(BROKEN):
        with pytest.raises(CheckFailed) as caught:
            check_backbone(broken(), checks=[check])
        found[check] = caught.value.found
    assert "multiply numbers meant for 0..1 by 255" in found["pixel_units"]
    assert found["image_size"] == "it takes 8 x 8, declared are 10 x 10 (height x width)"
    assert found["taps_run_deeper"] == "'stage1' comes before 'features', but lies 3 layers deep, not 2"
    assert found["every_channel_counts"] == "channel 2 (B) changes nothing"
    assert found["blocks_cover_parameters"] == "in no block: second.weight"
    assert found["blocks_run_deeper"] == "they are used in the order [2, 1]"
    assert found["every_block_learns"] == "no parameter of block 1 gets a gradient"
    assert "1,000,000 are declared, the graph holds 36" in found["parameters_are_counted"]


def test_dropout_that_is_off_is_no_training_mode() -> None:
    check_backbone(
        with_model(before=[helper.make_node("Dropout", ["input"], ["x"])]), checks=["inference_mode"]
    )


def test_a_batch_norm_that_gets_what_it_has_learnt_is_no_fault() -> None:
    check_backbone(batch_norm(), checks=["range_fits", "inference_mode"])


def test_a_graph_may_normalise_by_itself_when_the_image_spec_leaves_it_to_the_graph() -> None:
    check_backbone(before("Div", 127.5, image=PLAIN))


def test_a_graph_may_turn_one_usual_normalisation_into_another() -> None:
    """From 0..1 to ImageNet's, as many exported networks do."""
    held = [
        numpy_helper.from_array(np.array(value, np.float32).reshape(1, 3, 1, 1), name)
        for name, value in (("means", [0.485, 0.456, 0.406]), ("stds", [0.229, 0.224, 0.225]))
    ]
    steps = [
        helper.make_node("Sub", ["input", "means"], ["centred"]),
        helper.make_node("Div", ["centred", "stds"], ["x"]),
    ]
    zero_to_one = replace(INFO, image=replace(IMAGE, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)))
    check_backbone(TinyBackbone(zero_to_one, lambda: tiny_model(before=steps, constants=held)))


def test_a_misspelt_check_is_told() -> None:
    with pytest.raises(ValueError, match="no such checks: finite"):
        check_backbone(TinyBackbone(), checks=["finite"])
