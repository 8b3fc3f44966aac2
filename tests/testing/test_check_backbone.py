"""Each check of the kit passes on a sound backbone and catches a deliberately broken one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.plugin_host.tiny import IMAGE, INFO, TinyBackbone, tiny_model, with_model
from tests.testing.faults import BROKEN, PLAIN, batch_norm, before, knows_its_batch
from tests.testing.networks import TinyTrainable, Untrained, trainable
from tlserve.testing import CHECKS, CheckFailed, check_backbone
from tlserve.testing.graphs import depths


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


@pytest.mark.parametrize("n_images", [1, 2])
def test_a_fixed_batch_is_told_with_its_remedy(n_images: int) -> None:
    found = (
        f"the graph takes batches of {n_images} only; "
        'with torch.onnx.export give dynamic_shapes=({0: torch.export.Dim("N")},)'
    )
    for broken in (with_model(batch=n_images), knows_its_batch(n_images)):
        with pytest.raises(CheckFailed) as caught:
            check_backbone(broken)
        assert (caught.value.check, caught.value.found) == ("batch_is_free", found)


def test_a_plugin_that_leaves_fails_its_check_and_ends_nothing_else() -> None:
    class Leaving(TinyBackbone):
        def export(self, path: Path) -> None:
            sys.exit("no GPU here")

    with pytest.raises(CheckFailed, match=r"export_works: .*; instead SystemExit: no GPU here"):
        check_backbone(Leaving())


def branching(*, deep_branch: bool) -> TinyBackbone:
    """`features` passes through an If that reads tensors of the graph around it; `stage1` lies before it.

    deep_branch: the branch multiplies by a matrix; otherwise it hands on what it reads.
    """

    def branch(name: str) -> Any:
        step = helper.make_node(*(("MatMul", ["y", "square"]) if deep_branch else ("Abs", ["y"])), [name])
        given = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 6])
        return helper.make_graph([step], name, [], [given])

    choice = helper.make_node(
        "If", ["choice"], ["features"], then_branch=branch("then"), else_branch=branch("otherwise")
    )
    held = [
        numpy_helper.from_array(np.array(True), "choice"),
        numpy_helper.from_array(np.eye(6, dtype=np.float32), "square"),
    ]
    return with_model(after=[choice], constants=held)


def test_what_a_branch_reads_counts_for_how_deep_a_tap_lies() -> None:
    handing_on, multiplying = branching(deep_branch=False), branching(deep_branch=True)
    assert depths(handing_on.make_model().graph)["features"] == 2
    assert depths(multiplying.make_model().graph)["features"] == 3
    check_backbone(handing_on)
    check_backbone(multiplying, checks=["taps_run_deeper"])


def test_what_a_loops_body_does_counts_once() -> None:
    shape = [None, 6]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("MatMul", ["before", "square"], ["now"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("now", TensorProto.FLOAT, shape),
        ],
    )
    held = [
        numpy_helper.from_array(np.array(2), "turns"),
        numpy_helper.from_array(np.eye(6, dtype=np.float32), "square"),
    ]
    looping = with_model(
        after=[helper.make_node("Loop", ["turns", "", "y"], ["features"], body=body)], constants=held
    )
    assert depths(looping.make_model().graph)["features"] == 3
    check_backbone(looping, checks=["taps_run_deeper", "all_finite"])


def test_dropout_that_is_off_is_no_training_mode() -> None:
    check_backbone(
        with_model(before=[helper.make_node("Dropout", ["input"], ["x"])]), checks=["inference_mode"]
    )


def test_a_batch_norm_that_gets_what_it_has_learnt_is_no_fault() -> None:
    check_backbone(batch_norm(), checks=["range_fits", "inference_mode"])


def test_a_batch_norm_that_has_learnt_nothing_yet_is_no_fault() -> None:
    check_backbone(trainable(Untrained), checks=["range_fits"])


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
