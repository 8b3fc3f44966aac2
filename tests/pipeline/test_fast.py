"""A drop is answered by a fast version, and refined; a large import by a part of its images first."""

from __future__ import annotations

import shutil
from dataclasses import replace

from tests.flow.daemon_process import draw_shapes
from tests.pipeline.stage import RECIPE, Stage
from tlserve.core.lifecycle import Promotion
from tlserve.core.messages import PassDone, SnapshotTaken
from tlserve.core.plan import Depth, HeadKind

HURRIED = replace(RECIPE, instant_budget_seconds=0.01)
"""So small a budget that the full recipe never fits into it."""


def drop(stage: Stage, n: int, seed: int, shape: str = "disc") -> tuple[str, ...]:
    """New pictures; their paths relative to the model's folder."""
    folder = stage.folder / shape
    before = set(folder.glob("*"))
    draw_shapes(folder, shape, n, seed=seed)
    return tuple(str(path.relative_to(stage.folder)) for path in sorted(set(folder.glob("*")) - before))


def fast_version(stage: Stage, seed: int = 8) -> PassDone:
    """A first version, live, and then a drop that a fast one answers."""
    stage.go_live(stage.run(HURRIED).version)
    touched = drop(stage, 5, seed)
    return stage.run(HURRIED, depth=Depth.INSTANT, touched=touched, noticed_at=1.0, settled_at=1.25)


def test_a_drop_is_answered_by_a_fast_version_that_asks_to_be_refined(stage: Stage) -> None:
    done = fast_version(stage)
    assert (done.outcome, done.version, done.promote, done.refine, done.study) == (
        "published",
        2,
        True,
        True,
        False,
    )
    manifest = stage.manifest(2)
    assert manifest.instant
    assert manifest.counts == {"bar": 40, "disc": 45}
    assert manifest.accuracy is not None
    assert manifest.accuracy > 0.9
    assert manifest.full_plan == stage.manifest(1).plan
    assert manifest.timeline["settling"] == 0.25
    assert stage.report(2)["training"]["instant"] is True


def test_only_what_a_drop_touched_is_opened_and_passed(stage: Stage) -> None:
    stage.go_live(stage.run(HURRIED).version)
    touched = drop(stage, 5, seed=8)
    drop(stage, 3, seed=9)  # of these no event has told yet
    stage.events.clear()
    stage.run(HURRIED, depth=Depth.INSTANT, touched=touched)
    assert [event.files_opened for event in stage.events if isinstance(event, SnapshotTaken)] == [5]
    assert stage.passed() == 5
    stage.run(HURRIED)
    assert stage.manifest(3).counts["disc"] == 48


def test_the_full_recipe_follows_a_fast_version_and_says_what_it_gains(stage: Stage) -> None:
    stage.go_live(fast_version(stage).version)
    done = stage.run(HURRIED, refine=True)
    manifest = stage.manifest(3)
    assert (done.version, done.refine, manifest.instant) == (3, False, False)
    assert manifest.plan == stage.manifest(1).plan
    if manifest.evidence == "strong":
        assert "fast version" in manifest.reason
    assert stage.shop.versions.refines("shapes", 3)
    assert stage.shop.versions.versions("shapes") == [1, 2, 3]


def test_a_fast_version_that_stays_has_its_report_in_the_end(stage: Stage) -> None:
    stage.go_live(fast_version(stage).version)
    manual = replace(HURRIED, promotion=Promotion.MANUAL)
    refined = stage.run(manual, refine=True)
    assert (refined.version, refined.promote) == (3, False)
    stage.reopen()  # whatever the trainer had in mind is lost
    assert stage.run(manual).outcome == "unchanged"
    stage.shop.catch_up(everything=True)
    assert stage.shop.versions.page("shapes", 2) is not None
    assert stage.report(2)["evaluation"]["held_out"]


def test_a_study_never_takes_a_fast_version_for_its_own_result(stage: Stage) -> None:
    stage.go_live(fast_version(stage).version)
    studied = stage.run(replace(HURRIED, wish=replace(RECIPE.wish, views=0)), depth=Depth.FULL)
    assert studied.version == 3
    assert not stage.manifest(3).instant


def test_a_fast_version_that_nobody_refined_is_noticed_by_the_next_look(stage: Stage) -> None:
    stage.go_live(fast_version(stage).version)
    stage.reopen()  # the trainer was killed
    for depth in (Depth.INSTANT, Depth.QUICK):
        look = stage.run(HURRIED, depth=depth)
        assert (look.outcome, look.refine) == ("unchanged", True)
    assert stage.run(HURRIED, refine=True).version == 3
    assert not stage.manifest(3).instant
    assert not stage.run(HURRIED).refine


def test_the_full_recipe_is_remembered_through_several_fast_versions(stage: Stage) -> None:
    stage.go_live(stage.run(replace(HURRIED, wish=replace(RECIPE.wish, head=HeadKind.OVR))).version)
    recipe = replace(HURRIED, wish=replace(RECIPE.wish, head=HeadKind.OVR))
    for seed in (8, 9):
        touched = drop(stage, 4, seed)
        stage.go_live(stage.run(recipe, depth=Depth.INSTANT, touched=touched).version)
    assert stage.manifest(3).instant
    stage.run(recipe, refine=True)
    plan = stage.manifest(4).plan
    assert plan is not None
    assert plan.head is HeadKind.OVR


def test_a_recipe_that_is_quick_enough_is_carried_out_at_once(stage: Stage) -> None:
    patient = replace(RECIPE, instant_budget_seconds=600.0)
    stage.go_live(stage.run(patient).version)
    done = stage.run(patient, depth=Depth.INSTANT, touched=drop(stage, 5, seed=8))
    assert (done.version, done.refine) == (2, False)
    assert not stage.manifest(2).instant


def test_a_new_class_is_known_by_the_fast_version(stage: Stage) -> None:
    stage.go_live(stage.run(HURRIED).version)
    draw_shapes(stage.folder / "frame", "frame", 12, seed=3)
    done = stage.run(HURRIED, depth=Depth.INSTANT, touched=("frame",))
    assert done.version == 2
    assert stage.manifest(2).labels == ("bar", "disc", "frame")


def test_removed_and_moved_images_leave_the_fast_version(stage: Stage) -> None:
    stage.go_live(stage.run(HURRIED).version)
    first, second, *_ = sorted((stage.folder / "disc").iterdir())
    first.unlink()
    second.rename(stage.folder / "bar" / second.name)
    touched = (f"disc/{first.name}", f"disc/{second.name}", f"bar/{second.name}")
    stage.run(HURRIED, depth=Depth.INSTANT, touched=touched)
    assert stage.manifest(2).counts == {"bar": 41, "disc": 38}


def test_a_first_version_is_made_of_a_part_and_the_rest_follows(stage: Stage) -> None:
    recipe = replace(RECIPE, first_images=20)
    first = stage.run(recipe, depth=Depth.INSTANT)
    assert (first.outcome, first.version, first.promote, first.more) == ("published", 1, True, True)
    assert stage.manifest(1).counts == {"bar": 10, "disc": 10}
    assert stage.passed() == 20
    stage.go_live(1)
    rest = stage.run(recipe)
    assert (rest.version, rest.more) == (2, False)
    assert stage.manifest(2).counts == {"bar": 40, "disc": 40}
    assert stage.passed() == 80


def test_a_part_is_enough_for_a_first_version_of_images_that_are_known_but_not_passed(stage: Stage) -> None:
    stage.run(replace(RECIPE, first_images=0), cancelled=lambda: bool(stage.events[2:]))
    assert stage.passed() == 0
    stage.events.clear()
    first = stage.run(replace(RECIPE, first_images=20))
    assert (first.version, first.more) == (1, True)
    assert stage.manifest(1).n_images == 20


def test_the_rest_of_an_import_goes_on_after_a_kill(stage: Stage) -> None:
    recipe = replace(RECIPE, first_images=20)
    stage.go_live(stage.run(recipe).version)
    stage.reopen()
    assert stage.run(recipe).version == 2
    assert stage.passed() == 80


def test_a_part_holds_every_class_whatever_was_passed_before(stage: Stage) -> None:
    # Rows of one class only, as an import that was cut short leaves them.
    for image in sorted((stage.folder / "bar").iterdir()):
        image.rename(stage.folder / image.name)
    stage.run(replace(RECIPE, first_images=0))
    (stage.folder / "other").mkdir()
    draw_shapes(stage.folder / "other", "frame", 2, seed=5)
    stage.run(replace(RECIPE, first_images=0))
    for image in sorted(stage.folder.glob("*.png")):
        image.rename(stage.folder / "bar" / image.name)
    recipe = replace(RECIPE, first_images=10)
    first = stage.run(recipe)
    assert (first.outcome, first.more) == ("published", True)
    assert "bar" in stage.manifest(first.version or 0).labels


def test_a_part_that_no_classifier_can_be_made_of_is_no_part(stage: Stage) -> None:
    stage.run(replace(RECIPE, first_images=0), cancelled=lambda: bool(stage.events[2:]))
    first = stage.run(replace(RECIPE, first_images=1))
    assert (first.outcome, first.more) == ("published", False)
    assert stage.manifest(1).n_images == 80


def test_a_look_keeps_what_the_next_drop_goes_on_from(stage: Stage) -> None:
    stage.go_live(stage.run(HURRIED).version)
    assert stage.run(HURRIED).outcome == "unchanged"
    (build,) = {build for _, build in stage.shop.filled}
    assert stage.shop.filled["shapes", build] == stage.manifest(1).snapshot_id


def test_what_is_remembered_of_a_model_goes_with_its_folder(stage: Stage) -> None:
    stage.go_live(stage.run(HURRIED).version)
    stage.shop.catch_up(everything=True)
    remembered = stage.shop.memory("shapes", stage.folder)
    stage.shop.tidy(now=True)
    assert stage.shop.memory("shapes", stage.folder) is remembered
    shutil.rmtree(stage.folder)
    stage.shop.tidy(now=True)
    assert not stage.shop.filled
    assert stage.shop.memory("shapes", stage.folder) is not remembered
