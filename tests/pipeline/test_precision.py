"""In which numbers a backbone is computed: decided once on a model's images, or as the settings say."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.flow.daemon_process import draw_shapes
from tests.pipeline.stage import RECIPE, Stage
from tests.pipeline.test_tuned import TUNING
from tlserve.core.errors import BuildMismatch, CorruptState
from tlserve.core.messages import Progress
from tlserve.core.plan import Depth
from tlserve.core.precision import Precision, PrecisionTrial
from tlserve.core.types import Pixels, Rows, Split
from tlserve.pipeline.options import TrainerOptions
from tlserve.pipeline.ordering import TuneResult, read_order, write_result
from tlserve.pipeline.precision import TIMED_ON_CPU, in_turns, rival
from tlserve.pipeline.trainer import described
from tlserve.pipeline.trial_mark import BEGUN_FILE, MOST_CUT_SHORT, TrialMark
from tlserve.pipeline.tuner import as_precise_as_its_parent, still_there
from tlserve.runtime import (
    REFERENCE_FILE,
    BackboneSession,
    BuildSpec,
    choose_device,
    read_build_spec,
    record_trial,
    reference_pixels,
    this_processor,
)

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
    assert "had passed in fp32" in trial.reason
    assert list(builds(stage)) == ["fp32"]


@needs_int8
def test_a_trial_that_ends_the_trainer_every_time_is_given_up(stage: Stage) -> None:
    draw_many(stage)
    mark = TrialMark(builds(stage)["fp32"])
    for _ in range(MOST_CUT_SHORT):
        mark.begin()
    done = stage.run()
    trial = trial_of(stage)
    assert trial is not None
    assert (trial.chosen, trial.tried) == ("fp32", "")
    assert f"{MOST_CUT_SHORT} trials of int8 ended with the trainer" in trial.reason
    assert done.version is not None
    assert not mark.is_set


def test_a_trial_that_was_set_aside_does_not_count(tmp_path: Path) -> None:
    mark = TrialMark(tmp_path)
    for _ in range(3):
        mark.begin()
        mark.set_aside()
    assert (mark.is_set, mark.cut_short) == (True, 0)


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


@needs_int8
def test_what_was_decided_outlives_the_fp32_build(stage: Stage) -> None:
    draw_many(stage)
    stage.go_live(stage.run().version)
    trial = trial_of(stage)
    assert trial is not None
    assert trial.chosen == "int8", trial.reason
    shutil.rmtree(builds(stage)["fp32"])
    assert stage.run().outcome == "unchanged"
    assert trial_of(stage) == trial


@needs_int8
def test_a_folder_that_went_away_during_the_trial_decides_nothing(stage: Stage) -> None:
    draw_many(stage)
    away = stage.folder.with_name("away")

    def unmount() -> bool:
        if stage.folder.exists() and any(note.startswith("trying int8: how fast") for note in notes(stage)):
            stage.folder.rename(away)
        return False

    assert stage.run(cancelled=unmount).outcome == "waiting"
    assert trial_of(stage) is None
    away.rename(stage.folder)
    stage.run()
    trial = trial_of(stage)
    assert trial is not None
    assert trial.tried == "int8"


@needs_int8
def test_a_damaged_version_of_another_model_does_not_keep_auto_from_deciding(stage: Stage) -> None:
    damaged = stage.layout.models / "other" / "1" / "manifest.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    draw_many(stage)
    plain = builds(stage)["fp32"]
    assert stage.shop.bench(plain.name).session.threads == 1
    (plain / "backbone.onnx").write_bytes(b"no graph")
    stage.run()
    trial = trial_of(stage)
    assert trial is not None
    assert "int8 could not be tried" in trial.reason


def test_a_processor_without_dot_products_tries_nothing() -> None:
    precision, why_not = rival(choose_device("cpu"))
    if this_processor().int8:
        assert (precision, why_not) == (Precision.INT8, "")
    else:
        assert precision is None
        assert "VNNI" in why_not


class Interrupted:
    """A runner that takes `work` seconds of the processor, and waits for it for `wait` seconds."""

    description = "on a busy machine"

    def __init__(self, *, work: float, wait: float) -> None:
        self._work, self._wait = work, wait

    def rows(self, pixels: Pixels) -> Rows:
        began = time.process_time()
        while time.process_time() - began < self._work:
            pass
        time.sleep(self._wait)
        return np.empty((len(pixels), 1), np.float32)

    def close(self) -> None: ...


def test_what_else_the_machine_does_makes_no_build_look_faster(stage: Stage) -> None:
    spec = read_build_spec(builds(stage)["fp32"])
    plain, tried = (
        BackboneSession(spec, choose_device("cpu"), Interrupted(work=work, wait=wait), threads=1)
        for work, wait in ((0.004, 0.02), (0.002, 0.0))
    )
    per_second, times = in_turns(plain, tried, reference_pixels(spec.image), seconds=0.1)
    assert 1.5 < times < 2.5
    assert 0.5 < per_second * 0.004 / TIMED_ON_CPU <= 1.0


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


def test_what_a_kill_left_of_a_build_is_made_again(stage: Stage) -> None:
    stage.go_live(stage.run(INT8).version)
    (builds(stage)["int8"] / REFERENCE_FILE).unlink()
    stage.reopen()
    draw_shapes(stage.folder / "disc", "disc", 2, seed=40)
    assert stage.run(INT8).outcome == "published"
    assert (builds(stage)["int8"] / REFERENCE_FILE).is_file()


def test_a_model_can_leave_a_build_that_this_host_does_not_reproduce(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.go_live(stage.run(INT8).version)
    n_known = stage.report(1)["images"]["held_out"]
    reference = builds(stage)["int8"] / REFERENCE_FILE
    np.save(reference, np.load(reference) * 2)
    stage.reopen()
    draw_many(stage)
    with pytest.raises(BuildMismatch, match='precision = "fp32" here'):
        stage.run(INT8)
    done = stage.run(replace(RECIPE, precision=Precision.FP32))
    assert (done.outcome, done.promote) == ("published", True)
    assert f"on the same {n_known} held-out images" in done.reason
    assert "does not reproduce" in caplog.text


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


def test_what_was_tuned_at_another_precision_is_not_used(stage: Stage) -> None:
    stage.go_live(stage.run(TUNING).version)
    assert stage.run(TUNING, depth=Depth.FULL).tune
    tuned = "a" * 64
    write_result(stage.layout, "shapes", TuneResult(tuned))
    done = stage.run(replace(TUNING, precision=Precision.INT8), depth=Depth.ROWS, tuned=tuned)
    assert (done.outcome, "settings changed" in done.reason) == ("unchanged", True)
    assert read_order(stage.layout, "shapes") is None


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
