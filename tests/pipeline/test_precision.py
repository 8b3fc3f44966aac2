"""In which numbers a backbone is computed: decided once on a model's images, or as the settings say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.flow.daemon_process import draw_shapes
from tests.pipeline.stage import RECIPE, Stage
from tests.pipeline.test_tuned import TUNING
from tlserve.core.errors import CorruptState
from tlserve.core.messages import Progress
from tlserve.core.plan import Depth
from tlserve.core.precision import Precision, PrecisionTrial
from tlserve.core.types import Split
from tlserve.pipeline.options import TrainerOptions
from tlserve.pipeline.ordering import read_order
from tlserve.pipeline.precision import BEGUN_FILE, rival
from tlserve.pipeline.trainer import described
from tlserve.pipeline.tuner import as_precise_as_its_parent, still_there
from tlserve.runtime import BuildSpec, choose_device, read_build_spec, record_trial, this_processor

INT8 = replace(RECIPE, precision=Precision.INT8)
needs_int8 = pytest.mark.skipif(
    not this_processor().int8, reason="int8 is tried on processors with VNNI or the like"
)


def draw_many(stage: Stage) -> None:
    """Then more than 100 of the images are for training."""
    for seed, shape in enumerate(("disc", "bar")):
        draw_shapes(stage.folder / shape, shape, 35, seed=seed + 20)


def builds(stage: Stage) -> dict[str, Path]:
    """By precision."""
    return {read_build_spec(folder).precision: folder for folder in stage.layout.backbones.iterdir()}


def trial_of(stage: Stage, precision: str = "fp32") -> PrecisionTrial | None:
    return read_build_spec(builds(stage)[precision]).trial


def notes(stage: Stage) -> list[str]:
    return [event.note for event in stage.events if isinstance(event, Progress) and event.note]


def n_rows(stage: Stage, precision: str) -> int:
    return len(stage.shop.bench(builds(stage)[precision].name).store)


# -- auto


def test_below_a_hundred_training_images_nothing_is_decided(stage: Stage) -> None:
    done = stage.run()
    assert done.version is not None
    assert list(builds(stage)) == ["fp32"]
    assert trial_of(stage) is None


@needs_int8
def test_auto_decides_once_and_what_is_chosen_keeps_its_rows(stage: Stage) -> None:
    draw_many(stage)
    stage.run()
    trial = trial_of(stage)
    assert trial is not None
    assert (trial.tried, trial.n_images) == ("int8", stage.report(1)["images"]["train"])
    assert trial.images_per_second is not None
    assert stage.manifest(1).build == builds(stage)[trial.chosen].name
    assert n_rows(stage, trial.chosen) == 150
    assert notes(stage).count(trial.reason) == 1
    assert not (builds(stage)["fp32"] / BEGUN_FILE).exists()

    # Shapes are easy, and the bundled backbone gains much.
    assert trial.chosen == "int8", trial.reason
    assert trial_of(stage, "int8") == trial
    found = described("nano", stage.shop, measure=False, precision=Precision.AUTO)
    assert (found.build, found.precision, found.trial) == (builds(stage)["int8"].name, "int8", trial)
    assert stage.report(1)["backbone"]["precision"] == "int8"
    held_out = [one for one, side in stage.shop.catalog.sides("shapes").items() if side is Split.HELD_OUT]
    assert stage.shop.bench(builds(stage)["fp32"].name).store.missing(held_out) == held_out

    stage.events.clear()
    draw_shapes(stage.folder / "disc", "disc", 2, seed=40)
    stage.run()
    assert stage.passed() == 2
    assert trial_of(stage) == trial


def test_what_was_decided_holds_whatever_the_images_say(stage: Stage) -> None:
    record_trial(builds(stage)["fp32"], PrecisionTrial("fp32", "int8", "int8: not taken"))
    draw_many(stage)
    stage.run()
    assert list(builds(stage)) == ["fp32"]


def test_a_decided_build_that_was_lost_is_made_again(stage: Stage) -> None:
    trial = PrecisionTrial("int8", "int8", "int8: taken")
    record_trial(builds(stage)["fp32"], trial)
    stage.run()
    assert stage.manifest(1).build == builds(stage)["int8"].name
    assert trial_of(stage, "int8") == trial


def test_a_state_with_many_rows_keeps_fp32(stage: Stage) -> None:
    draw_many(stage)
    stage.run(replace(RECIPE, precision=Precision.FP32))
    stage.go_live(1)
    assert trial_of(stage) is None
    assert stage.run().outcome == "unchanged"
    trial = trial_of(stage)
    assert trial is not None
    assert (trial.chosen, trial.tried) == ("fp32", "")
    assert "had passed before" in trial.reason
    assert list(builds(stage)) == ["fp32"]


@needs_int8
def test_a_model_that_grew_slowly_is_decided_on_when_it_is_large_enough(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    draw_many(stage)
    stage.run()
    trial = trial_of(stage)
    assert trial is not None
    assert trial.tried == "int8"


@needs_int8
@pytest.mark.parametrize("after", ["making the int8 build", "trying int8: how fast", "rows"])
def test_a_trial_that_was_set_aside_decides_in_the_next_pass(stage: Stage, after: str) -> None:
    draw_many(stage)

    def is_that_far() -> bool:
        if after == "rows":
            return stage.passed() > 0
        return any(note.startswith(after) for note in notes(stage))

    assert stage.run(cancelled=is_that_far).outcome == "cancelled"
    assert trial_of(stage) is None
    if after == "rows":
        assert n_rows(stage, "fp32") >= 100
    stage.run()
    trial = trial_of(stage)
    assert trial is not None
    assert trial.tried == "int8"


def test_a_backbone_that_cannot_be_reduced_stays_fp32_with_the_reason(stage: Stage) -> None:
    draw_many(stage)
    graph = builds(stage)["fp32"] / "backbone.onnx"
    whole = graph.read_bytes()
    # Its session is open, and extracts as ever.
    assert stage.shop.bench(builds(stage)["fp32"].name).session.threads == 1
    graph.write_bytes(whole[: len(whole) // 2])
    done = stage.run()
    assert done.version is not None
    trial = trial_of(stage)
    assert trial is not None
    assert (trial.chosen, trial.tried) == ("fp32", "")
    if this_processor().int8:
        assert "int8 could not be tried" in trial.reason


def test_a_processor_without_dot_products_tries_nothing() -> None:
    precision, why_not = rival(choose_device("cpu"))
    if this_processor().int8:
        assert (precision, why_not) == (Precision.INT8, "")
    else:
        assert precision is None
        assert "VNNI" in why_not


# -- named


def test_a_precision_that_is_named_is_taken_whatever_it_costs(stage: Stage) -> None:
    done = stage.run(INT8)
    assert done.outcome == "published"
    assert stage.manifest(1).build == builds(stage)["int8"].name
    assert stage.manifest(1).tuned_from is None
    assert trial_of(stage) is None
    stage.go_live(1)
    assert stage.run(INT8).outcome == "unchanged"


def test_a_change_of_precision_is_a_candidate_that_is_judged(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    done = stage.run(INT8)
    assert (done.outcome, done.judged_against) == ("published", 1)
    assert stage.manifest(2).build != stage.manifest(1).build
    sixteen = stage.run(replace(RECIPE, precision=Precision.FP16))
    assert sixteen.version is not None
    assert stage.manifest(sixteen.version).build == builds(stage)["fp16"].name


def test_int8_waits_for_images_to_be_calibrated_on(stage: Stage) -> None:
    for shape in ("disc", "bar"):
        for path in sorted((stage.folder / shape).iterdir())[3:]:
            path.unlink()
    stage.go_live(stage.run(INT8).version)
    assert stage.manifest(1).build == builds(stage)["fp32"].name
    assert any("int8 waits for 8" in note for note in notes(stage))
    draw_many(stage)
    done = stage.run(INT8)
    assert done.version is not None
    assert stage.manifest(done.version).build == builds(stage)["int8"].name


def test_a_named_precision_that_cannot_be_had_fails_the_pass(stage: Stage) -> None:
    (builds(stage)["fp32"] / "backbone.onnx").write_bytes(b"no graph")
    with pytest.raises(CorruptState, match="not a readable ONNX file"):
        stage.run(INT8)


# -- fine-tuning


def test_a_fine_tuning_of_an_int8_build_is_reduced_like_its_parent(stage: Stage) -> None:
    tuning = replace(TUNING, precision=Precision.INT8)
    stage.go_live(stage.run(tuning).version)
    assert stage.run(tuning, depth=Depth.FULL).tune
    order = read_order(stage.layout, "shapes")
    assert order is not None
    base = builds(stage)
    assert (order.parent, order.precision) == (base["int8"].name, "int8")
    assert BuildSpec.of(read_build_spec(base["fp32"]).info, "nano", order.precision).digest == order.parent
    device = choose_device(TrainerOptions(stage.layout.root).device)
    assert as_precise_as_its_parent(base["fp32"], order, still_there(order), device) == base["int8"]
    plain = replace(order, precision="fp32")
    assert as_precise_as_its_parent(base["fp32"], plain, still_there(order), device) == base["fp32"]


def test_a_tuned_build_that_cannot_be_reduced_stays_fp32(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    tuning = replace(TUNING, precision=Precision.INT8)
    stage.go_live(stage.run(tuning).version)
    stage.run(tuning, depth=Depth.FULL)
    order = read_order(stage.layout, "shapes")
    assert order is not None
    int8 = builds(stage)["int8"]
    # Only an fp32 build can be reduced.
    assert (
        as_precise_as_its_parent(
            int8, replace(order, precision="fp16"), still_there(order), choose_device("cpu")
        )
        == int8
    )
    assert "stays fp32" in caplog.text
