"""When a search for a better version, or a fine-tuning, is worth its time again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tlserve.core.messages import Recipe
from tlserve.core.plan import HeadKind, Strategy, TuneWish, Wish
from tlserve.core.types import LabelledImage, Snapshot, Split
from tlserve.pipeline.studies import (
    Study,
    is_due,
    read_study,
    tuning_digest,
    wish_digest,
    write_study,
)

RECIPE = Recipe("nano")
BUILD = "a" * 64


def snapshot(n_images: int, classes: str = "ab") -> Snapshot:
    images = tuple(
        LabelledImage(f"{at:064x}", classes[at % len(classes)], Split.TRAIN, f"{at}.png")
        for at in range(n_images)
    )
    return Snapshot("m", f"{n_images}{classes}", images)


DONE = Study(BUILD, wish_digest(RECIPE), n_images=100, classes=("a", "b"), found="", n_images_at_tuning=100)


@pytest.mark.parametrize(
    ("images", "build", "recipe", "covered"),
    [
        (snapshot(100), BUILD, RECIPE, True),
        (snapshot(110), BUILD, RECIPE, True),
        (snapshot(111), BUILD, RECIPE, False),
        (snapshot(89), BUILD, RECIPE, False),
        (snapshot(100, "abc"), BUILD, RECIPE, False),
        (snapshot(100), "b" * 64, RECIPE, False),
        (snapshot(100), BUILD, replace(RECIPE, wish=Wish(head=HeadKind.SVM)), False),
        (snapshot(100), BUILD, replace(RECIPE, keep_versions=3), True),
    ],
)
def test_a_study_holds_until_images_classes_backbone_or_wishes_change(
    images: Snapshot, build: str, recipe: Recipe, covered: bool
) -> None:
    assert DONE.covers(images, build, recipe) is covered


def test_a_fine_tuning_is_begun_anew_when_the_images_are_half_as_many_again() -> None:
    assert is_due(None, 0, snapshot(100), RECIPE)
    assert is_due(DONE, 0, snapshot(100), RECIPE)
    assert not is_due(DONE, 100, snapshot(120), RECIPE)
    assert is_due(DONE, 100, snapshot(150), RECIPE)
    assert is_due(DONE, 100, snapshot(100, "abc"), RECIPE)
    assert is_due(DONE, 100, snapshot(100), replace(RECIPE, wish=Wish(views=9)))


def test_a_fine_tuned_model_is_tuned_anew_for_other_wishes_of_tuning_but_not_for_another_head() -> None:
    done = replace(DONE, tuning=tuning_digest(RECIPE, Strategy.FINETUNE))
    for wish, again in (
        (Wish(head=HeadKind.SVM), False),
        (Wish(mixup=True), False),
        (Wish(tune=TuneWish(unfreeze=2)), True),
        (Wish(augment=("heavy",)), True),
    ):
        other = replace(RECIPE, wish=wish)
        tuned_as = tuning_digest(other, Strategy.FINETUNE)
        assert is_due(done, 100, snapshot(100), other, tuned_as=tuned_as) is again, wish
        assert is_due(done, 100, snapshot(100), other), "on the plain build it is still to come"
    assert tuning_digest(RECIPE, Strategy.FINETUNE) != tuning_digest(RECIPE, Strategy.SCRATCH)


def test_a_study_is_kept_on_disk_and_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    assert read_study(path) is None
    write_study(path, DONE)
    assert read_study(path) == DONE
    path.write_text("{")
    assert read_study(path) is None
    path.write_text('{"build": 1}')
    assert read_study(path) is None
