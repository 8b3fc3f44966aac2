"""The page of a version: all sections, none without its part, no user's word as markup, bounded in size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.report.a_report import LABELS, full_report
from tests.report.html_pages import Page
from tlserve.report import render_report

SECTIONS = {
    "classes",
    "confusions",
    "curve",
    "mislabelled",
    "hardest",
    "health",
    "problems",
    "calibration",
    "strategy",
    "heads",
    "augmentation",
    "tuning",
    "origin",
}
PART_OF = {
    "curve": ("learning_curve",),
    "mislabelled": ("mislabelled",),
    "hardest": ("hardest",),
    "health": ("health",),
    "problems": ("problems", "n_problems"),
    "strategy": ("strategy", "plan"),
    "heads": ("training",),
    "augmentation": ("augmentation", "training"),
    "tuning": ("tuning",),
    "confusions": ("evaluation",),
    "classes": ("evaluation", "decision"),
    "calibration": ("evaluation", "training"),
    "origin": ("images", "timeline", "backbone"),
}
MARKUP = "<script>alert(1)</script>"


def sections(page: Page) -> set[str]:
    return {value for tag, name, value in page.attributes if (tag, name) == ("section", "id")}


def test_a_full_report_has_every_section_and_each_is_reached_by_a_link(tmp_path: Path) -> None:
    page = Page(render_report(full_report(), tmp_path))
    assert sections(page) == SECTIONS
    links = {value.removeprefix("#") for value in page.values("href")}
    assert links >= SECTIONS
    assert links <= set(page.ids), "a link leads nowhere"
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("section", sorted(PART_OF))
def test_without_its_parts_a_section_is_left_out_and_all_others_stay(section: str, tmp_path: Path) -> None:
    report = full_report()
    for part in PART_OF[section]:
        report[part] = None
    found = sections(Page(render_report(report, tmp_path)))
    lost = {name for name, parts in PART_OF.items() if all(report[part] is None for part in parts)}
    assert section in lost
    assert found == SECTIONS - lost


def test_only_where_several_heads_were_tried_it_says_so(tmp_path: Path) -> None:
    report = full_report()
    assert "Several kinds were tried" in Page(render_report(report, tmp_path)).text
    report["training"]["comparison"] = report["training"]["comparison"][:1]
    alone = Page(render_report(report, tmp_path)).text
    assert "Several kinds" not in alone
    assert "Only one kind was tried" in alone


def test_an_empty_report_is_a_page_all_the_same(tmp_path: Path) -> None:
    page = Page(render_report({}, tmp_path))
    assert sections(page) == set()
    assert "Nothing urgent" in page.text


def test_a_report_of_the_first_kind_shows_its_classes_from_the_decision(tmp_path: Path) -> None:
    report = full_report()
    old = {name: report[name] for name in ("model", "decision", "images", "timeline", "backbone")}
    page = Page(render_report(old, tmp_path))
    assert sections(page) == {"classes", "origin"}
    assert "precision" not in page.text.lower()


def test_parts_of_another_shape_than_expected_are_no_error(tmp_path: Path) -> None:
    report = full_report()
    for odd in (None, [], "text", 3, float("nan"), [None], [{}], {"points": [{}]}, {"findings": [{}]}):
        Page(render_report(dict.fromkeys(report, odd), tmp_path))
    for part in report:
        Page(render_report(report | {part: [{}]}, tmp_path))


def test_the_summary_tells_accuracy_verdict_gain_and_what_to_do(tmp_path: Path) -> None:
    report = full_report() | {"health": None, "problems": None, "n_problems": 0}
    decision = report["decision"]
    page = Page(render_report(report, tmp_path))
    top = page.text[: page.text.index("Class by class")]
    assert f"{decision['accuracy'] * 100:.1f}" in top
    assert f"{decision['accuracy_low'] * 100:.1f} to {decision['accuracy_high'] * 100:.1f}" in top
    assert decision["reason"] in top
    assert f"{decision['difference'] * 100:+.1f} points" in top
    assert "Look at the 3 images that may lie in the wrong folder." in top
    assert "More images would probably still help." in top


def test_a_version_that_was_held_says_how_to_promote_it(tmp_path: Path) -> None:
    report = full_report()
    report["decision"]["verdict"] = "hold"
    text = Page(render_report(report, tmp_path)).text
    assert "held back" in text
    assert "tlserve promote flowers 7" in text


def test_the_confusion_matrix_shows_every_count_under_its_class(tmp_path: Path) -> None:
    report = full_report()
    page = Page(render_report(report, tmp_path))
    for truth, row in zip(LABELS, report["evaluation"]["held_out"]["confusion"], strict=True):
        total = sum(row)
        for predicted, n in zip(LABELS, row, strict=True):
            did = "recognised" if truth == predicted else f"taken for {predicted}"
            assert f"{n} of {total} images of {truth} {did}" in page.values("title")
    cells = [value.split() for tag, name, value in page.attributes if (tag, name) == ("td", "class")]
    matrix = [kinds for kinds in cells if not {"n", "draw", "why"} & set(kinds)]
    assert ["right" in kinds for kinds in matrix[:9]] == [
        True,
        False,
        False,
        False,
        True,
        False,
        False,
        False,
        True,
    ]


def test_too_many_classes_for_a_drawing_leave_the_most_frequent_mistakes(tmp_path: Path) -> None:
    report = full_report(tuple(f"class {n:02d}" for n in range(60)), n_each=5)
    worst = report["evaluation"]["held_out"]["confused"][0]
    page = Page(render_report(report, tmp_path))
    assert "matrix" not in page.values("class")
    assert "60 classes are too many for a drawing" in page.text
    assert f"{worst['label']} {worst['answer']} {worst['count']}" in page.text


def test_fine_tuning_is_told_epoch_by_epoch_with_what_it_was_set_to(tmp_path: Path) -> None:
    page = Page(render_report(full_report(), tmp_path))
    told = page.text[page.text.index("Fine-tuning of the backbone") :]
    for said in ("The last 4 blocks of 17 learnt.", "The batch was halved.", "cache 123 MB"):
        assert said in told
    assert "validation accuracy before 90.0" in told
    assert "0 is the head alone" in told
    assert "unfreeze auto epochs 20" in told
    assert "epoch 3: 93.0" in told


@pytest.mark.parametrize(
    ("ece", "confidence", "said"),
    [
        (0.03, 0.9, "no further off than chance"),
        (0.08, 0.9, "the model is too sure of itself, by 8.0"),
        (0.08, 0.7, "the model is too modest, by 8.0"),
    ],
)
def test_it_says_whether_the_probabilities_can_be_believed(
    ece: float, confidence: float, said: str, tmp_path: Path
) -> None:
    report = full_report()
    one = {"lower": 0.5, "upper": 1.0, "count": 100, "confidence": confidence, "accuracy": 0.8}
    report["evaluation"]["out_of_fold"] |= {"ece": ece, "ece_by_chance": 0.025, "reliability": [one]}
    assert said in Page(render_report(report, tmp_path)).text


def test_what_stands_among_the_suspicious_is_not_shown_again_among_the_hardest(tmp_path: Path) -> None:
    report = full_report()
    hardest = report["hardest"][0]
    report["mislabelled"] = [{"path": hardest["path"], "given": hardest["label"], "suggested": "roses"}]
    report["health"] = None
    paths = [text for text in Page(render_report(report, tmp_path)).texts if text.startswith(hardest["path"])]
    assert len(paths) == 1


def test_words_of_users_are_text_and_never_markup(tmp_path: Path) -> None:
    labels = (MARKUP, 'a" onload="alert(2)', "{{ model }}")
    report = full_report(labels)
    report["model"] = MARKUP
    report["backbone"]["name"] = MARKUP
    report["mislabelled"][0]["path"] = f"{MARKUP}.jpg"
    report["health"]["findings"][0] |= {"paths": [MARKUP], "notes": [MARKUP], "sentence": MARKUP}
    report["strategy"]["reason"] = report["training"]["choice"] = MARKUP
    html = render_report(report, tmp_path)
    page = Page(html)
    assert "script" not in page.tags
    assert MARKUP not in html
    assert MARKUP in page.text
    assert "{{ model }}" in page.text
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    picture = tmp_path / LABELS[0] / "0.jpg"
    picture.parent.mkdir()
    Image.new("RGB", (40, 30), "red").save(picture)
    page = Page(render_report(full_report(), tmp_path))
    assert all(value.startswith("#") for value in page.values("href"))
    sources = page.values("src")
    assert sources
    assert all(value.startswith("data:image/jpeg;base64,") for value in sources)
    assert not {"link", "script", "iframe", "object"} & set(page.tags)
    assert "default-src 'none'" in next(value for value in page.values("content") if "src" in value)


def test_a_name_that_is_no_unicode_does_not_keep_the_page_from_being_written(tmp_path: Path) -> None:
    report = full_report()
    report["problems"][0]["where"] = "tulips/\udcff.jpg"
    assert render_report(report, tmp_path).encode("utf-8")


def test_a_thousand_classes_make_a_small_page_all_the_same(tmp_path: Path) -> None:
    labels = tuple(f"class {n:04d}" for n in range(1000))
    report = full_report(labels, n_each=2)
    html = render_report(report, tmp_path)
    page = Page(html)
    assert len(html) < 200_000
    assert sections(page) == SECTIONS
    assert "1,000 classes are too many for a drawing" in page.text


def test_many_findings_and_pictures_are_cut_and_counted(tmp_path: Path) -> None:
    report = full_report()
    many: list[dict[str, Any]] = [
        {"path": f"daisy/{n}.jpg", "given": "daisy", "suggested": "roses", "score": 0.9} for n in range(500)
    ]
    report["mislabelled"] = many
    page = Page(render_report(report, tmp_path))
    assert "and 482 more images" in page.text
    assert "daisy/17.jpg" in page.text
    assert "daisy/400.jpg" not in page.text


def test_real_pictures_stand_in_the_page(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    folder = shared("datasets/flowers")
    paths = [str(path.relative_to(folder)) for path in sorted(folder.glob("daisy/*.jpg"))[:18]]
    report = full_report()
    report["mislabelled"] = [{"path": path, "given": "daisy", "suggested": "roses"} for path in paths]
    report["hardest"] = []
    html = render_report(report, folder)
    assert len(Page(html).values("src")) == 18
    assert len(html) < 400_000
