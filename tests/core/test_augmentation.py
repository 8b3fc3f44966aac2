"""Policies as users write them, and views that depend on digests alone."""

from __future__ import annotations

import hashlib

import pytest

from tlserve.core.augmentation import POLICIES, Augmentation, image_of, policy, view_key, view_keys
from tlserve.core.view_steps import KINDS, Operation, Step

IMAGE = hashlib.sha256(b"a picture").hexdigest()


def digests(n: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(n)]


def test_every_named_policy_is_there_and_only_none_is_empty() -> None:
    assert tuple(POLICIES) == ("none", "light", "standard", "heavy")
    assert [name for name in POLICIES if not policy(name).operations] == ["none"]
    assert len({policy(name).digest for name in POLICIES}) == 4


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (["flip"], [Operation("flip", 0, 0.5)]),
        (["rotate=15"], [Operation("rotate", 15, 1)]),
        (["rotate"], [Operation("rotate", KINDS["rotate"].strength, 1)]),
        (["erase=0.1@0.3"], [Operation("erase", 0.1, 0.3)]),
        (["grayscale@1"], [Operation("grayscale", 0, 1)]),
        ([" blur = 2 @ 0.25 "], [Operation("blur", 2, 0.25)]),
        ("noise=0.1, flip", [Operation("flip", 0, 0.5), Operation("noise", 0.1, 0.5)]),
        (
            ["colour=0.1"],
            [
                Operation("brightness", 0.1, 1),
                Operation("contrast", 0.1, 1),
                Operation("saturation", 0.1, 1),
                Operation("hue", 6, 1),
            ],
        ),
        ([], []),
        ("none", []),
    ],
)
def test_what_is_written_is_what_is_meant(written: str | list[str], meant: list[Operation]) -> None:
    assert policy(written).operations == tuple(meant)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["flip", "crop=0.7"], ["crop=0.70", "flip"]),
        ("flip,rotate", ["rotate=15@1", "flip"]),
        ("color,greyscale", ["hue=12", "saturation=0.2", "contrast=0.2", "brightness=0.2", "grayscale"]),
        (["light", "erase"], [*POLICIES["light"], "erase=0.15@0.5"]),
        (["light", "crop=0.5"], ["crop=0.5", *(word for word in POLICIES["light"] if "crop" not in word)]),
        (["none"], []),
    ],
)
def test_equal_lists_in_other_words_are_one_policy(one: str | list[str], other: list[str]) -> None:
    assert policy(one) == policy(other)
    assert policy(one).digest == policy(other).digest


def test_another_strength_or_share_is_another_policy() -> None:
    written = ["crop=0.7", "crop=0.8", "crop=0.7@0.5", "rotate=7", "rotate=7@0.5"]
    assert len({policy([word]).digest for word in written}) == len(written)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_written_out_reads_back_as_itself(name: str) -> None:
    assert policy(policy(name).words()) == policy(name)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("strong", r"'strong' is not known.*none, light, standard, heavy.*rotate=15.*colour"),
        (["flip", "rotate:15"], r"'rotate:15' is not known.*\"rotate=15\""),
        (["rotate=-5"], "'rotate=-5' cannot be read; after = and @ stand plain numbers above 0"),
        (["rotate=much"], "'rotate=much' cannot be read"),
        (["flip", "erase=0.1@often"], "'erase=0.1@often' cannot be read"),
        ([""], "not known"),
        (["rotate=200"], "above 0, at most 180, not 200"),
        (["rotate=0"], "above 0, at most 180, not 0"),
        (["crop=0.1"], "from 0.2 to 1, not 0.1"),
        (["flip=0.5"], "has no strength; write 'flip' alone"),
        (["flip@0.3"], "half of the views; write 'flip' alone"),
        (["blur@0"], "above 0, at most 1, not 0"),
        (["blur@1.5"], "above 0, at most 1, not 1.5"),
        (["rotate=1.2.3"], "'1.2.3' in 'rotate=1.2.3' is no number"),
        (["flip", "flip"], "'flip' is listed twice"),
        (["hue=5", "colour"], "'hue' is listed twice"),
        (["none", "flip"], "'none' stands alone"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_write(written: str | list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        policy(written)


def test_the_digests_and_draws_of_today_are_those_of_any_day() -> None:
    """A change here makes every cached view stale: raise DRAWING_VERSION with it."""
    augmentation = policy(["flip", "crop=0.8"])
    assert augmentation.digest == "db402641aa682416f472dfef93ac7cb96410af00a6f19caf2a302b07ef8e79ad"
    (step,) = augmentation.steps(IMAGE, 2)
    assert step == Step("crop", (0.8872606229895995, 0.41980811415961605, 0.5825636969851083))


@pytest.mark.parametrize("name", ["light", "standard", "heavy"])
def test_the_first_view_is_the_plain_mirror_image_and_every_other_later_one_is_mirrored(name: str) -> None:
    augmentation = policy(name)
    assert augmentation.steps(IMAGE, 1) == (Step("flip"),)
    mirrored = [any(step.name == "flip" for step in augmentation.steps(IMAGE, n)) for n in range(2, 8)]
    assert mirrored == [False, True] * 3


def test_no_two_views_are_the_same_and_none_is_the_picture_itself() -> None:
    for name in ("light", "standard", "heavy"):
        augmentation = policy(name)
        seen = {augmentation.steps(digest, index) for digest in digests(20) for index in range(2, 12)}
        assert len(seen) == 200
        assert () not in seen


@pytest.mark.parametrize("name", [name for name in KINDS if name not in {"flip", "vertical_flip"}])
def test_an_operation_comes_as_often_as_its_share_says(name: str) -> None:
    augmentation = policy([f"{name}@0.3", "crop=0.9" if name == "rotate" else "rotate"])
    views = [augmentation.steps(digest, index) for digest in digests(100) for index in range(1, 11)]
    share = sum(any(step.name == name for step in steps) for steps in views) / len(views)
    assert share == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.strength])
def test_drawn_amounts_stay_within_the_strength_and_use_it(name: str) -> None:
    strength = KINDS[name].strength
    augmentation = policy([f"{name}@1"])
    drawn = [augmentation.steps(digest, 1)[0].amounts for digest in digests(300)]
    if name in {"brightness", "contrast", "saturation"}:
        drawn = [(factor - 1,) for (factor,) in drawn]
    first = [amounts[0] for amounts in drawn]
    least, most = {
        "crop": (strength, 1.0),
        **dict.fromkeys(("blur", "sharpen", "edges", "noise", "erase"), (strength / 2, strength)),
    }.get(name, (-strength, strength))
    assert least <= min(first) < least + (most - least) * 0.05
    assert most - (most - least) * 0.05 < max(first) <= most


def test_flips_alone_give_no_more_views_than_there_are() -> None:
    assert list(policy("flip").indices(5)) == [1]
    both = policy("flip,vertical_flip")
    assert list(both.indices(5)) == [1, 2, 3]
    assert {both.steps(IMAGE, index) for index in both.indices(5)} == {
        (Step("flip"),),
        (Step("vertical_flip"),),
        (Step("flip"), Step("vertical_flip")),
    }
    assert list(policy("light").indices(3)) == [1, 2, 3]
    assert not policy("none").indices(3)


def test_a_key_names_image_policy_and_number_and_leads_back_to_the_image() -> None:
    light, heavy = policy("light"), policy("heavy")
    keys = {view_key(digest, how, n) for digest in digests(3) for how in (light, heavy) for n in (1, 2, 11)}
    assert len(keys) == 18
    assert {image_of(key) for key in keys} == set(digests(3))
    assert image_of(IMAGE) == IMAGE


def test_the_keys_of_all_views_are_those_of_the_views_that_are_made() -> None:
    light = policy("light")
    assert view_keys(IMAGE, light, 3) == [view_key(IMAGE, light, index) for index in (1, 2, 3)]
    assert view_keys(IMAGE, policy("flip"), 3) == [view_key(IMAGE, policy("flip"), 1)]


def test_nothing_to_do_is_no_step_and_view_0_is_the_picture_itself() -> None:
    assert Augmentation().steps(IMAGE, 1) == ()
    assert policy("heavy").steps(IMAGE, 0) == ()
