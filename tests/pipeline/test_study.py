"""The search for a better version: what it looks at, what it costs, and when it is worth its time again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.flow.daemon_process import draw_shapes
from tests.pipeline.stage import RECIPE, Stage
from tlserve.core.errors import StoreUnavailable
from tlserve.core.messages import Recipe
from tlserve.core.plan import Depth, HeadKind, Plan, Strategy, Wish
from tlserve.core.precision import Precision
from tlserve.pipeline.learning import FEW_VIEWS

VIEWS = 2


def wishing(**wish: Any) -> Recipe:
    return replace(RECIPE, wish=Wish(views=VIEWS, **wish))


def test_a_first_version_asks_for_a_study_and_a_study_only_once(stage: Stage) -> None:
    first = stage.run(wishing())
    assert first.study
    stage.go_live(first.version)
    studied = stage.run(wishing(), depth=Depth.FULL)
    if studied.version is not None:
        stage.go_live(studied.version)
    again = stage.run(wishing())
    assert (again.outcome, again.study) == ("unchanged", False)
    draw_shapes(stage.folder / "disc", "disc", 2, seed=8)
    assert not stage.run(wishing()).study
    draw_shapes(stage.folder / "bar", "bar", 12, seed=9)
    assert stage.run(wishing()).study
    assert not stage.run(replace(wishing(), study=False)).study


def test_a_study_passes_views_of_training_images_once_and_none_of_held_out_ones(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    n_train = stage.report(1)["images"]["train"]
    before = stage.passed()
    stage.run(wishing(), depth=Depth.FULL)
    assert stage.passed() - before == VIEWS * n_train
    stage.run(wishing(), depth=Depth.FULL, force=True)
    assert stage.passed() - before == VIEWS * n_train


def test_a_study_that_is_set_aside_goes_on_where_it_was(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    before = stage.passed()
    done = stage.run(wishing(), depth=Depth.FULL, cancelled=lambda: stage.passed() > before)
    assert done.outcome == "cancelled"
    assert before < stage.passed() <= before + VIEWS * stage.report(1)["images"]["train"]
    stage.run(wishing(), depth=Depth.FULL)
    assert stage.passed() == before + VIEWS * stage.report(1)["images"]["train"]


def test_a_study_that_could_not_be_published_is_made_again(stage: Stage) -> None:
    stage.go_live(stage.run(wishing()).version)
    # A file stands where the next version would be made: as good as a disk that is full.
    in_the_way = stage.layout.models / "shapes" / "2"
    in_the_way.write_bytes(b"")
    other = wishing(head=HeadKind.RIDGE)
    with pytest.raises(StoreUnavailable):
        stage.run(other, depth=Depth.FULL)
    in_the_way.unlink()
    assert stage.run(other).study


def test_without_views_a_study_speaks_of_none(stage: Stage) -> None:
    plain = replace(RECIPE, wish=Wish(views=0, mixup=True))
    stage.go_live(stage.run(plain).version)
    done = stage.run(plain, depth=Depth.FULL, force=True)
    assert done.version is not None
    report = stage.report(done.version)
    assert "augmentation" not in report
    assert report["training"]["mixup"]["reason"]
    assert report["plan"]["augment"] == ["none"]


def test_the_report_of_a_study_tells_what_was_compared(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    done = stage.run(wishing(), depth=Depth.FULL, force=True)
    assert done.version == 2
    report = stage.report(2)
    assert {one["kind"] for one in report["training"]["comparison"]} >= {"softmax", "ridge", "projection"}
    assert report["strategy"]["reason"]
    assert report["augmentation"]["views"] == VIEWS
    assert Plan(**{**report["plan"], "taps": tuple(report["plan"]["taps"])}).taps == stage.manifest(2).taps
    json.dumps(report, allow_nan=False)


def test_a_head_that_the_settings_name_is_taken_at_once(stage: Stage) -> None:
    done = stage.run(wishing(head=HeadKind.RIDGE))
    manifest = stage.manifest(1)
    assert done.version == 1
    assert manifest.plan is not None
    assert manifest.plan.head is HeadKind.RIDGE
    stage.go_live(1)
    assert stage.run(wishing(head=HeadKind.RIDGE)).outcome == "unchanged"
    changed = stage.run(wishing(head=HeadKind.OVR))
    assert (changed.outcome, stage.manifest(2).plan.head) == ("published", HeadKind.OVR)


def test_a_quick_pass_keeps_to_the_plan_of_the_live_version(stage: Stage) -> None:
    stage.go_live(stage.run().version)
    taps = wishing(strategy=Strategy.TAPS)
    stage.go_live(stage.run(taps, depth=Depth.FULL, force=True).version)
    plan = stage.manifest(2).plan
    assert plan is not None
    assert len(plan.taps) >= 1
    assert plan.strategy is Strategy.TAPS
    draw_shapes(stage.folder / "disc", "disc", 5, seed=8)
    stage.run(taps)
    assert stage.manifest(3).plan == plan


def test_views_of_a_large_drop_are_made_a_few_at_each_pass(stage: Stage) -> None:
    wish = Wish(head=HeadKind.RIDGE, views=8)
    # On 100 training images `auto` would choose another build, which has no views yet.
    many = replace(RECIPE, wish=wish, precision=Precision.FP32)
    stage.go_live(stage.run(many).version)
    stage.go_live(stage.run(many, depth=Depth.FULL, force=True).version)
    plan = stage.manifest(2).plan
    assert plan is not None
    assert plan.views == 8
    n_views = stage.report(2)["training"]["n_views"]
    draw_shapes(stage.folder / "disc", "disc", 50, seed=8)
    stage.go_live(stage.run(many).version)
    assert stage.report(3)["training"]["n_views"] == n_views + FEW_VIEWS
    draw_shapes(stage.folder / "bar", "bar", 2, seed=9)
    stage.run(many)
    training = stage.report(4)["training"]
    assert training["n_views"] == 8 * training["n_train"]


def test_the_page_of_a_version_is_written_when_nobody_waits(stage: Stage) -> None:
    done = stage.run()
    assert done.version is not None
    assert stage.shop.versions.page("shapes", 1) is None
    stage.shop.catch_up(stop=lambda: True)
    assert stage.shop.is_behind, "a drop that comes meanwhile goes before"
    assert stage.shop.versions.page("shapes", 1) is None
    stage.shop.catch_up(everything=True)
    page = stage.shop.versions.page("shapes", 1)
    assert page is not None
    assert "shapes" in page
    report = stage.report(1)
    assert report["evaluation"]["held_out"]["accuracy"] == stage.manifest(1).accuracy
    assert report["learning_curve"]["points"]
    assert report["hardest"]


def test_a_report_that_a_killed_trainer_left_unfinished_is_made_up_for(stage: Stage) -> None:
    stage.go_live(stage.run(wishing()).version)
    assert "evaluation" not in stage.report(1)
    stage.reopen()
    assert stage.run(wishing()).outcome == "unchanged"
    stage.shop.catch_up(everything=True)
    assert stage.report(1)["evaluation"]["held_out"]["accuracy"] == stage.manifest(1).accuracy
    assert stage.shop.versions.page("shapes", 1) is not None
    stage.run(wishing())
    assert not stage.shop.is_behind


def test_a_wish_that_the_backbone_cannot_fulfil_is_told_and_not_tried_again(stage: Stage) -> None:
    (stage.folder.parent / "frozen.py").write_text(FROZEN)
    stage.reopen(plugin_folders=(stage.folder.parent,))
    recipe = replace(RECIPE, backbone="frozen", wish=Wish(strategy=Strategy.FINETUNE, views=0))
    stage.go_live(stage.run(recipe).version)
    done = stage.run(recipe, depth=Depth.FULL)
    assert (done.outcome, "cannot be trained" in done.reason) == ("unchanged", True)
    later = stage.run(recipe)
    assert (later.outcome, later.study, "cannot be trained" in later.reason) == ("unchanged", False, True)


FROZEN = """
from tlserve_nano import PLUGIN as NANO


class Frozen:
    def __init__(self):
        self.nano = NANO.load("")
        self.info = self.nano.info

    def export(self, path):
        self.nano.export(path)


class Plugin:
    def names(self):
        return ("",)

    def load(self, rest):
        return Frozen()


PLUGIN = Plugin()
"""
