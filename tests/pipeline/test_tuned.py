"""From the wish to fine-tune to a version on a build of its own: ordered, done, learnt on, kept to."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.flow.daemon_process import draw_shapes
from tests.pipeline.stage import RECIPE, Stage
from tlserve.core.lifecycle import Promotion
from tlserve.core.plan import Depth, HeadKind, Strategy, TuneWish, Wish
from tlserve.core.precision import Precision
from tlserve.core.tuning import TuneOptions
from tlserve.pipeline.bench import VALIDATION_FILE
from tlserve.pipeline.options import TrainerOptions
from tlserve.pipeline.ordering import TuneOrder, TuneResult, read_order, read_result, write_result
from tlserve.pipeline.tuner import TuningUseless, as_precise_as_its_parent, carry_out, still_there
from tlserve.plugin_host import make_build
from tlserve.runtime import read_build_spec

TUNING = replace(
    RECIPE,
    wish=Wish(
        head=HeadKind.SOFTMAX,
        strategy=Strategy.FINETUNE,
        augment=("none",),
        tune=TuneWish(unfreeze=1, epochs=1),
    ),
)


@pytest.fixture
def ordered(stage: Stage) -> TuneOrder:
    """The order that a study left; version 1 is live."""
    stage.go_live(stage.run(TUNING).version)
    assert stage.run(TUNING, depth=Depth.FULL).tune
    order = read_order(stage.layout, "shapes")
    assert order is not None
    return order


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps the tuned build: every stage has the same pictures, hence the same build."""
    return tmp_path_factory.mktemp("made")


def tuned_build(stage: Stage, order: TuneOrder, made: Path) -> str:
    """One epoch, whatever it brings: what is tested is the way of a tuned build, not its worth."""
    if not any(made.iterdir()):
        fine_tuned(stage, order, made)
    (kept,) = made.iterdir()
    shutil.copytree(kept, stage.layout.backbones / kept.name, dirs_exist_ok=True)
    write_result(stage.layout, "shapes", TuneResult(kept.name, {"reason": "one epoch"}))
    return kept.name


def fine_tuned(stage: Stage, order: TuneOrder, made: Path) -> None:
    from tlserve.tuning import TuningImage, fine_tune

    folder = Path(order.folder)
    done = fine_tune(
        stage.shop.plugins.load("nano"),
        [TuningImage(one.digest, folder / one.path, one.label, one.group) for one in order.images],
        TuneOptions(unfreeze=1, epochs=1, views=0),
        stage.layout.tuning("shapes") / "work",
    )
    make_build(done.backbone, "nano", made, stage.shop.device)


def test_an_order_names_training_images_only(stage: Stage, ordered: TuneOrder) -> None:
    assert len(ordered.images) == stage.report(1)["images"]["train"]
    assert ordered.parent == stage.manifest(1).build
    assert still_there(ordered) == list(ordered.images)


def test_a_version_on_a_tuned_build_goes_live_and_later_drops_keep_to_it(
    stage: Stage, ordered: TuneOrder, made: Path
) -> None:
    build = tuned_build(stage, ordered, made)
    judges = [image.digest for image in ordered.images][::4]
    (stage.layout.backbones / build / VALIDATION_FILE).write_text(json.dumps(judges))
    done = stage.run(TUNING, depth=Depth.ROWS, tuned=build)
    assert (done.outcome, done.promote) == ("published", True)
    assert done.version is not None
    training = stage.report(done.version)["training"]
    assert (training["n_judged"], training["n_train"]) == (len(judges), len(ordered.images) - len(judges))
    manifest = stage.manifest(done.version)
    assert (manifest.build, manifest.tuned_from) == (build, ordered.parent)
    assert manifest.plan is not None
    assert manifest.plan.strategy is Strategy.FINETUNE
    assert stage.report(done.version)["tuning"]["reason"]
    assert read_order(stage.layout, "shapes") is None
    stage.go_live(done.version)
    assert stage.run(TUNING).outcome == "unchanged"
    draw_shapes(stage.folder / "disc", "disc", 3, seed=7)
    later = stage.run(TUNING)
    assert later.version is not None
    assert stage.manifest(later.version).build == build
    # Who rules fine-tuning out gets the backbone as its plugin made it.
    plain = stage.run(replace(TUNING, wish=replace(TUNING.wish, strategy=Strategy.HEAD)))
    assert plain.version is not None
    assert stage.manifest(plain.version).tuned_from is None


def test_a_tuned_build_of_another_wish_is_not_used(stage: Stage, ordered: TuneOrder, made: Path) -> None:
    build = tuned_build(stage, ordered, made)
    other = replace(TUNING, wish=replace(TUNING.wish, strategy=Strategy.HEAD))
    done = stage.run(other, depth=Depth.ROWS, tuned=build)
    assert (done.outcome, "settings changed" in done.reason) == ("unchanged", True)
    assert read_order(stage.layout, "shapes") is None


def test_a_tuned_build_that_no_version_names_is_removed(stage: Stage, ordered: TuneOrder, made: Path) -> None:
    build = tuned_build(stage, ordered, made)
    stage.shop.remove_unused_builds()
    assert (stage.layout.backbones / build).is_dir(), "its pass has yet to come"
    stage.run(
        replace(TUNING, wish=replace(TUNING.wish, strategy=Strategy.HEAD)), depth=Depth.ROWS, tuned=build
    )
    stage.shop.remove_unused_builds()
    assert not (stage.layout.backbones / build).exists()
    assert (stage.layout.backbones / ordered.parent).is_dir()


def test_a_fine_tuning_of_images_that_are_gone_is_given_up(stage: Stage, ordered: TuneOrder) -> None:
    for path in sorted((stage.folder / "disc").iterdir())[:15]:
        path.unlink()
    with pytest.raises(TuningUseless, match="are still what they were"):
        carry_out(ordered, stage.layout, TrainerOptions(stage.layout.root), print, lambda: False)


def test_a_tuned_int8_build_is_kept_to_and_goes_together_with_the_fp32_one_it_was_made_of(
    stage: Stage, made: Path
) -> None:
    tuning = replace(TUNING, precision=Precision.INT8)
    stage.go_live(stage.run(tuning).version)
    assert stage.run(tuning, depth=Depth.FULL).tune
    order = read_order(stage.layout, "shapes")
    assert order is not None
    assert (order.precision, order.parent) == ("int8", stage.manifest(1).build)
    plain = stage.layout.backbones / tuned_build(stage, order, made)
    int8 = as_precise_as_its_parent(plain, order, still_there(order), stage.shop.device)
    assert read_build_spec(int8).precision == "int8"
    write_result(stage.layout, "shapes", TuneResult(int8.name, {"reason": "one epoch"}))

    done = stage.run(tuning, depth=Depth.ROWS, tuned=int8.name)
    assert done.version is not None
    assert (stage.manifest(done.version).build, stage.manifest(done.version).tuned_from) == (
        int8.name,
        order.parent,
    )
    stage.go_live(done.version)
    draw_shapes(stage.folder / "disc", "disc", 3, seed=7)
    later = stage.run(tuning)
    assert later.version is not None
    assert stage.manifest(later.version).build == int8.name

    stage.shop.remove_unused_builds()
    assert (plain.is_dir(), int8.is_dir()) == (True, True)
    for version in (done.version, later.version):
        shutil.rmtree(stage.layout.models / "shapes" / str(version))
    stage.shop.remove_unused_builds()
    assert (plain.exists(), int8.exists()) == (False, False)
    assert (stage.layout.backbones / order.parent).is_dir()


def test_another_head_is_learnt_on_the_tuned_build_and_nothing_is_tuned_anew(
    stage: Stage, ordered: TuneOrder, made: Path
) -> None:
    build = tuned_build(stage, ordered, made)
    stage.go_live(stage.run(TUNING, depth=Depth.ROWS, tuned=build).version)
    ridge = replace(TUNING, wish=replace(TUNING.wish, head=HeadKind.RIDGE))
    done = stage.run(ridge)
    assert done.version is not None
    manifest = stage.manifest(done.version)
    assert (manifest.build, manifest.tuned_from) == (build, ordered.parent)
    assert manifest.plan is not None
    assert (manifest.plan.head, manifest.plan.strategy) == (HeadKind.RIDGE, Strategy.FINETUNE)
    stage.go_live(done.version)
    assert not stage.run(ridge, depth=Depth.FULL).tune
    assert stage.run(ridge).outcome == "unchanged"


def test_a_tuned_build_waits_while_the_model_is_frozen_and_is_asked_for_afterwards(
    stage: Stage, ordered: TuneOrder, made: Path
) -> None:
    build = tuned_build(stage, ordered, made)
    frozen = replace(TUNING, promotion=Promotion.FROZEN)
    assert stage.run(frozen, depth=Depth.ROWS, tuned=build).outcome == "unchanged"
    assert not stage.run(frozen).tune
    assert stage.run(TUNING).tune
    assert stage.run(TUNING, depth=Depth.ROWS, tuned=build).outcome == "published"
    assert not stage.run(TUNING).tune


def test_a_newer_order_outlives_the_pass_over_an_older_result(stage: Stage, ordered: TuneOrder) -> None:
    write_result(stage.layout, "shapes", TuneResult("a" * 64, {"reason": "test"}))
    draw_shapes(stage.folder / "disc", "disc", 50, seed=9)
    assert stage.run(TUNING, depth=Depth.FULL).tune
    assert stage.run(TUNING, depth=Depth.ROWS, tuned="a" * 64).outcome == "unchanged"
    newer = read_order(stage.layout, "shapes")
    assert newer is not None
    assert newer.snapshot_id != ordered.snapshot_id
    assert read_result(stage.layout, "shapes") is None


def test_an_order_is_withdrawn_when_the_settings_want_a_head_only(stage: Stage, ordered: TuneOrder) -> None:
    other = replace(TUNING, wish=replace(TUNING.wish, strategy=Strategy.HEAD))
    stage.run(other, depth=Depth.FULL)
    assert read_order(stage.layout, "shapes") is None
