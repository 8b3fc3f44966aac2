"""The held-out fifth: stable, by group, within its limit."""

from __future__ import annotations

from collections import Counter

import pytest

from tlserve.core.split import HELD_OUT_LIMIT, Member, Tally, sides_of_newcomers
from tlserve.core.types import Split


def assign_sides(
    images: list[Member], known: dict[str, Split], groups: dict[str, Split], *, limit: int = HELD_OUT_LIMIT
) -> dict[str, Split]:
    """Sides for those of all images of a model that have none yet."""
    different = set(images)
    sizes = Counter(image.label for image in different)
    held = Counter(image.label for image in different if known.get(image.digest) is Split.HELD_OUT)
    tallies = {label: Tally(size, held[label]) for label, size in sizes.items()}
    newcomers = [image for image in images if image.digest not in known]
    return sides_of_newcomers(newcomers, tallies, groups, limit=limit)


def members(label: str, n_images: int, *, first: int = 0) -> list[Member]:
    """Images on their own: each its own group."""
    return [Member(f"{label}-{i}", label, f"{label}-{i}") for i in range(first, first + n_images)]


def held_out(sides: dict[str, Split]) -> set[str]:
    return {digest for digest, side in sides.items() if side is Split.HELD_OUT}


@pytest.mark.parametrize(
    ("n_images", "n_held"), [(1, 0), (4, 0), (5, 1), (7, 1), (8, 2), (10, 2), (1000, 200)]
)
def test_a_fifth_of_a_class_is_held_out_and_nothing_of_small_ones(n_images: int, n_held: int) -> None:
    sides = assign_sides(members("daisy", n_images), {}, {})
    assert len(sides) == n_images
    assert len(held_out(sides)) == n_held


def test_each_class_gives_its_own_fifth() -> None:
    sides = assign_sides(members("daisy", 50) + members("roses", 20) + members("rare", 3), {}, {})
    assert Counter(digest.partition("-")[0] for digest in held_out(sides)) == {"daisy": 10, "roses": 4}


def test_order_does_not_matter() -> None:
    images = members("daisy", 40) + members("roses", 40)
    assert assign_sides(images, {}, {}) == assign_sides(images[::-1], {}, {})


def test_sides_never_change_while_images_come_and_go() -> None:
    known: dict[str, Split] = {}
    groups: dict[str, Split] = {}
    for n_images in (4, 6, 30, 31, 12, 100):
        new = assign_sides(members("daisy", n_images), known, groups)
        assert not new.keys() & known.keys()
        known.update(new)
        groups.update(new)
    assert len(held_out(known)) == 20


def test_a_class_that_outgrew_the_small_ones_catches_up() -> None:
    known = assign_sides(members("daisy", 4), {}, {})
    known |= assign_sides(members("daisy", 50), known, {})
    assert len(held_out(known)) == 10


def test_a_group_stays_on_one_side() -> None:
    images = [Member(f"{i}", "daisy", f"group {i // 3}") for i in range(90)]
    sides = assign_sides(images, {}, {})
    assert all(sides[f"{i}"] == sides[f"{i - i % 3}"] for i in range(90))
    assert len(held_out(sides)) == 18


def test_a_group_larger_than_the_fifth_is_trained_on() -> None:
    sides = assign_sides([Member(f"{i}", "daisy", "burst") for i in range(10)], {}, {})
    assert held_out(sides) == set()


def test_a_new_member_takes_its_groups_side_whatever_its_class() -> None:
    groups = {"held": Split.HELD_OUT, "train": Split.TRAIN}
    newcomers = [Member("a", "daisy", "held"), Member("b", "roses", "held"), Member("c", "roses", "train")]
    sides = assign_sides(newcomers, {}, groups)
    assert sides == {"a": Split.HELD_OUT, "b": Split.HELD_OUT, "c": Split.TRAIN}


def test_a_group_over_two_classes_must_fit_the_fifth_of_both() -> None:
    twins = [Member("left", "daisy", "pair"), *(Member(f"right {i}", "rare", "pair") for i in range(4))]
    for n_others in range(4, 40):
        sides = assign_sides(twins + members("daisy", n_others), {}, {})
        assert not held_out(sides) & {member.digest for member in twins}


def test_the_limit_bounds_all_classes_together_in_proportion() -> None:
    sides = assign_sides(members("daisy", 1000) + members("roses", 500), {}, {}, limit=90)
    assert Counter(digest.partition("-")[0] for digest in held_out(sides)) == {"daisy": 60, "roses": 30}


def test_the_limit_holds_while_classes_are_added() -> None:
    known = assign_sides(members("daisy", 1000), {}, {}, limit=90)
    known |= assign_sides(members("daisy", 1000) + members("roses", 1000), known, {}, limit=90)
    assert len(held_out(known)) == 90


def test_the_same_image_given_twice_counts_once() -> None:
    assert len(held_out(assign_sides(members("daisy", 10) * 2, {}, {}))) == 2
