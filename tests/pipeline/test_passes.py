"""A pass over real folders with real stores and the bundled backbone, in this process."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

from tests.flow.daemon_process import draw_shapes
from tests.pipeline.stage import RECIPE, Stage
from tlserve.core.judge import Policy
from tlserve.core.lifecycle import Phase, Promotion
from tlserve.core.messages import Progress, SnapshotTaken
from tlserve.core.precision import Precision
from tlserve.core.types import Split
from tlserve.runtime import measured_here, read_speeds


def test_a_first_pass_tells_its_phases_in_order_and_publishes(stage: Stage) -> None:
    done = stage.run()
    assert (done.outcome, done.version, done.promote) == ("published", 1, True)
    phases = [event.phase for event in stage.events if isinstance(event, Progress)]
    assert list(dict.fromkeys(phases)) == [
        Phase.SCANNING,
        Phase.EXTRACTING,
        Phase.TRAINING,
        Phase.JUDGING,
        Phase.PUBLISHING,
    ]
    assert stage.passed() == 80
    manifest = stage.shop.versions.manifest("shapes", 1)
    assert manifest.counts == {"bar": 40, "disc": 40}
    assert manifest.accuracy is not None
    assert manifest.accuracy > 0.9
    assert set(done.timeline) >= {"scanning", "extracting", "training", "judging", "publishing"}


def test_an_unchanged_folder_trains_nothing_and_a_forced_pass_extracts_nothing(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    stage.events.clear()
    assert stage.run().outcome == "unchanged"
    assert stage.run(force=True).version == 2
    assert stage.passed() == 0
    first_look = [e for e in stage.events if isinstance(e, Progress)][:1]
    assert [e.phase for e in first_look] == [Phase.SCANNING]
    assert [e.files_opened for e in stage.events if isinstance(e, SnapshotTaken)] == [0, 0]


def test_a_published_version_whose_end_was_not_heard_is_told_again(stage: Stage) -> None:
    first = stage.run()
    again = stage.run()
    assert (again.outcome, again.version, again.promote) == ("published", first.version, True)
    assert stage.shop.versions.versions("shapes") == [1]


def test_the_same_job_publishes_once(stage: Stage) -> None:
    assert stage.run(job_id="one", force=True).version == stage.run(job_id="one", force=True).version == 1


def test_a_model_with_one_class_waits_and_says_what_it_lacks(stage: Stage) -> None:
    shutil.rmtree(stage.folder / "bar")
    done = stage.run()
    assert done.outcome == "waiting"
    assert "1 found: disc" in done.reason
    assert "disc" in done.reason


def test_a_vanished_folder_is_no_deletion(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    stage.folder.rename(stage.folder.with_name("elsewhere"))
    done = stage.run()
    assert done.outcome == "disappeared"
    assert "--accept-deletions" in done.reason
    stage.folder.with_name("elsewhere").rename(stage.folder)
    assert stage.run().outcome == "unchanged"


def test_a_first_version_goes_live_even_when_promotion_is_manual(stage: Stage) -> None:
    assert stage.run(replace(RECIPE, promotion=Promotion.MANUAL)).promote


def test_manual_promotion_leaves_a_candidate_and_auto_takes_it_live_later(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    draw_shapes(stage.folder / "disc", "disc", 5, seed=8)
    manual = replace(RECIPE, promotion=Promotion.MANUAL)
    done = stage.run(manual)
    assert (done.outcome, done.version, done.promote) == ("published", 2, False)
    assert "tlserve promote shapes 2" in done.reason
    again = stage.run(manual)
    assert again.outcome == "unchanged"
    assert "tlserve promote shapes 2" in again.reason
    resumed = stage.run()
    assert (resumed.version, resumed.promote, resumed.judged_against) == (2, True, 1)


def test_a_candidate_that_waited_while_another_went_live_is_judged_anew(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    stage.go_live(stage.run(force=True).version)
    draw_shapes(stage.folder / "disc", "disc", 5, seed=8)
    assert stage.run(replace(RECIPE, promotion=Promotion.MANUAL)).version == 3
    stage.go_live(1)
    anew = stage.run()
    assert (anew.version, anew.judged_against) == (4, 1)


def test_a_held_version_is_judged_anew_when_the_policy_changes(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    swap_training_images(stage)
    assert stage.run(force=True).promote is False
    tolerant = replace(RECIPE, policy=Policy(max_drop=1.0))
    assert stage.run(tolerant).version == 3


def test_a_frozen_model_is_looked_at_but_not_trained(stage: Stage) -> None:
    done = stage.run(replace(RECIPE, promotion=Promotion.FROZEN))
    assert done.outcome == "unchanged"
    assert "frozen" in done.reason
    assert stage.passed() == 0


def test_a_worse_candidate_is_held_with_the_reason(stage: Stage) -> None:
    """The classes of all training images are swapped; the held-out ones still tell the truth."""
    stage.go_live(stage.run().version)
    swap_training_images(stage)
    stage.events.clear()
    done = stage.run()
    assert (done.outcome, done.promote, done.version) == ("published", False, 2)
    assert "worse" in done.reason
    assert stage.passed() == 0
    again = stage.run()
    assert again.outcome == "unchanged"
    assert "version 2 was held: clearly worse" in again.reason


def swap_training_images(stage: Stage) -> None:
    """Every training image changes its class."""
    sides = stage.shop.catalog.sides("shapes")
    for file in stage.shop.catalog.images("shapes"):
        if sides[file.digest] is Split.TRAIN:
            source = stage.folder / file.path
            other = "bar" if source.parent.name == "disc" else "disc"
            source.rename(stage.folder / other / source.name)


def test_a_pass_over_many_images_notes_how_fast_they_went_and_one_over_few_does_not(stage: Stage) -> None:
    (build,) = stage.layout.backbones.iterdir()
    recipe = replace(RECIPE, precision=Precision.FP32)
    stage.run(recipe)
    assert read_speeds(build) == ()
    for seed, shape in enumerate(("disc", "bar")):
        draw_shapes(stage.folder / shape, shape, 130, seed=seed + 2)
    began = time.perf_counter()
    stage.run(recipe)
    (speed,) = read_speeds(build)
    assert (speed.of, speed.device, measured_here([speed])) == ("files", "cpu", (speed,))
    assert speed.images_per_second > 256 / (time.perf_counter() - began)


def test_another_backbone_is_judged_against_the_live_one_on_the_same_images(
    stage: Stage, tmp_path: Path
) -> None:
    stage.go_live(stage.run().version)
    done = stage.run(replace(RECIPE, backbone=write_onnx_twin(stage, tmp_path)))
    assert done.version == 2
    assert "of the live version on the same" in done.reason
    builds = {stage.shop.versions.manifest("shapes", n).build for n in (1, 2)}
    assert len(builds) == 2


def write_onnx_twin(stage: Stage, folder: Path) -> str:
    """The bundled backbone as a user's own ONNX file; returns its name as a backbone."""
    backbone = stage.shop.plugins.load("nano")
    backbone.export(folder / "twin.onnx")
    info = backbone.info
    sidecar = {
        "name": "twin",
        "licence": info.licence,
        "weights_origin": "the bundled backbone",
        "input": "input",
        "image": asdict(info.image),
        "taps": {tap.name: tap.name for tap in info.taps},
    }
    (folder / "twin.json").write_text(json.dumps(sidecar))
    return f"onnx:{folder / 'twin.onnx'}"


def test_a_cancelled_pass_stops_and_the_next_one_goes_on_from_the_cached_rows(stage: Stage) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return any(isinstance(e, Progress) and e.phase is Phase.TRAINING for e in stage.events)

    assert stage.run(cancelled=cancelled).outcome == "cancelled"
    assert asked > 0
    stage.events.clear()
    assert stage.run().outcome == "published"
    assert stage.passed() == 0
