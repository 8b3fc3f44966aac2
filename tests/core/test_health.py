"""What is amiss in the folders: one finding of a kind, the gravest first, each saying what to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise

import pytest

from tlserve.core.health import Alike, DataHealth, Duplicates, Finding, Suspect, data_health
from tlserve.core.types import LabelledImage, Problem, Snapshot, Split

NOTHING = Duplicates()


def snapshot(counts: dict[str, int], *problems: Problem) -> Snapshot:
    images = tuple(
        LabelledImage(f"{label}{n}", label, Split.TRAIN, f"{label}/{n:03}.jpg")
        for label, count in counts.items()
        for n in range(count)
    )
    return Snapshot("flowers", "an id", images, problems)


def only(health: DataHealth) -> Finding:
    (finding,) = health.findings
    return finding


def test_a_good_folder_has_no_findings() -> None:
    health = data_health(snapshot({"daisy": 20, "roses": 60}), NOTHING)
    assert health == DataHealth("an id", 80, 2, ())


def test_problems_of_one_kind_are_one_finding() -> None:
    bad = [Problem("bad_image", f"daisy/{n}.jpg", "the file ends early") for n in range(3)]
    finding = only(data_health(snapshot({"daisy": 30, "roses": 30}, *bad), NOTHING))
    assert (finding.kind, finding.severity, finding.count) == ("bad_image", "warning", 3)
    assert finding.sentence.startswith("3 files cannot be decoded as images and are left out: ")
    assert finding.paths == ("daisy/0.jpg", "daisy/1.jpg", "daisy/2.jpg")
    assert finding.notes == ("the file ends early",) * 3


def test_one_is_told_as_one() -> None:
    conflict = Problem("conflict", "daisy/1.jpg", "the same image is also in roses/1.jpg")
    finding = only(data_health(snapshot({"daisy": 30, "roses": 30}, conflict), NOTHING))
    assert finding.sentence.startswith("1 image lies in more than one class and is left out: ")


@pytest.mark.parametrize(
    "kind",
    ["bad_image", "conflict", "small_class", "not_in_a_class", "bad_name", "link_skipped", "unreadable"],
)
def test_every_kind_of_problem_says_what_to_do(kind: str) -> None:
    finding = only(data_health(snapshot({"daisy": 30, "roses": 30}, Problem(kind, "here", "why")), NOTHING))
    assert finding.kind == kind
    what, remedy = finding.sentence.rstrip(".").split(": ")
    assert what.startswith("1 ")
    assert kind not in finding.sentence
    assert remedy


def test_a_kind_nobody_thought_of_is_told_all_the_same() -> None:
    finding = only(data_health(snapshot({"a": 30, "b": 30}, Problem("odd", "here", "why")), NOTHING))
    assert (finding.kind, finding.paths, finding.notes) == ("odd", ("here",), ("why",))


def test_classes_with_few_images_are_named_the_smallest_first() -> None:
    finding = only(data_health(snapshot({"daisy": 19, "fern": 7, "roses": 20}), NOTHING))
    assert (finding.kind, finding.severity) == ("small_class", "warning")
    assert finding.sentence == "2 classes have fewer than 20 images: a few more help most there."
    assert (finding.paths, finding.notes) == (("fern", "daisy"), ("7 images", "19 images"))


def test_imbalance_names_the_largest_and_the_smallest_class() -> None:
    finding = only(data_health(snapshot({"daisy": 199, "moss": 40, "roses": 200, "ivy": 66}), NOTHING))
    assert (finding.kind, finding.count) == ("imbalance", 2)
    assert "'roses' has 5 times as many images as 'moss' (200 against 40)" in finding.sentence
    assert finding.paths == ("moss", "ivy")


def test_up_to_three_times_is_no_imbalance() -> None:
    assert data_health(snapshot({"daisy": 20, "roses": 60}), NOTHING).findings == ()
    assert data_health(snapshot({"daisy": 20, "roses": 61}), NOTHING).findings != ()


def test_of_exact_duplicates_the_copies_are_counted() -> None:
    exact = Alike((("daisy/1.jpg", "daisy/2.jpg", "daisy/3.jpg"), ("roses/1.jpg", "roses/2.jpg")), 2, 5)
    finding = only(data_health(snapshot({"daisy": 30, "roses": 30}), Duplicates(exact=exact)))
    assert (finding.kind, finding.severity, finding.count) == ("exact_duplicate", "info", 3)
    assert finding.paths == ("daisy/2.jpg", "daisy/3.jpg", "roses/2.jpg")
    assert finding.notes[0] == "the same as daisy/1.jpg"


def test_near_duplicates_need_no_action() -> None:
    near = Alike((("daisy/1.jpg", "daisy/2.jpg"),), 1, 2)
    finding = only(data_health(snapshot({"daisy": 30, "roses": 30}), Duplicates(near=near)))
    assert (finding.kind, finding.severity, finding.count) == ("near_duplicate", "info", 2)
    assert "nothing to do" in finding.sentence
    assert dict(zip(finding.paths, finding.notes, strict=True)) == {
        "daisy/1.jpg": "looks like daisy/2.jpg",
        "daisy/2.jpg": "looks like daisy/1.jpg",
    }


def test_look_alikes_in_two_classes_are_worth_a_look() -> None:
    across = Alike((("daisy/1.jpg", "roses/2.jpg"),), 1, 2)
    finding = only(data_health(snapshot({"daisy": 30, "roses": 30}), Duplicates(near_across=across)))
    assert (finding.kind, finding.severity) == ("near_conflict", "warning")
    assert "different classes" in finding.sentence


def suspects(n_suspects: int) -> list[Suspect]:
    return [Suspect(position, "daisy", "roses", 0.01, 0.97) for position in range(n_suspects)]


def test_likely_mislabelled_images_are_named_in_their_order() -> None:
    images = snapshot({"daisy": 30, "roses": 30})
    found = [suspects(3)[2], suspects(3)[0]]
    finding = only(data_health(images, NOTHING, found, images.images))
    assert (finding.kind, finding.severity, finding.count) == ("mislabelled", "warning", 2)
    assert finding.sentence.startswith("2 images may lie in the wrong class: ")
    assert finding.paths == ("daisy/002.jpg", "daisy/000.jpg")
    assert finding.notes[0] == "lies in 'daisy', looks like 'roses' (97%)"


def test_a_single_suspect_is_told_as_one() -> None:
    images = snapshot({"daisy": 30, "roses": 30})
    finding = only(data_health(images, NOTHING, suspects(1), images.images))
    assert finding.sentence.startswith("1 image may lie in the wrong class: look at it")


def test_where_every_second_image_is_suspect_the_model_is_too_weak() -> None:
    images = snapshot({"daisy": 30, "roses": 30})
    finding = only(data_health(images, NOTHING, suspects(20), images.images))
    assert (finding.severity, finding.count) == ("info", 20)
    assert "too weak to tell" in finding.sentence


def test_the_gravest_comes_first() -> None:
    problems = [
        Problem("small_class", "fern", "1 usable image, at least 2 needed; the class is left out"),
        Problem("bad_image", "daisy/1.jpg", "cut off"),
        Problem("link_skipped", "roses", "2 links"),
    ]
    health = data_health(snapshot({"daisy": 10, "roses": 100}, *problems), NOTHING)
    rank = [("error", "warning", "info").index(finding.severity) for finding in health.findings]
    assert rank == sorted(rank)
    assert len(rank) == 5
    assert all(a != b for a, b in pairwise((finding.kind, finding.severity) for finding in health.findings))


def test_of_very_many_only_the_first_are_named_but_all_are_counted() -> None:
    problems = [Problem("bad_image", f"daisy/{n:05}.jpg", "cut off") for n in range(5000)]
    finding = only(data_health(snapshot({"daisy": 30, "roses": 30}, *problems), NOTHING))
    assert (finding.count, len(finding.paths), len(finding.notes)) == (5000, 100, 100)
    assert finding.sentence.startswith("5,000 files")


def test_an_empty_folder_has_no_imbalance() -> None:
    assert data_health(snapshot({}), NOTHING) == DataHealth("an id", 0, 0, ())


def test_it_is_ready_for_json() -> None:
    images = snapshot({"daisy": 10, "roses": 100}, Problem("bad_image", "daisy/x.jpg", "cut off"))
    health = data_health(images, NOTHING, suspects(1), images.images)
    told = json.loads(json.dumps(asdict(health)))
    assert {"kind", "severity", "sentence", "count", "paths", "notes"} == set(told["findings"][0])
