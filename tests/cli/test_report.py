"""A report for people."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from tlserve.cli.report import report_parts

REPORT: dict[str, Any] = {
    "model": "flowers",
    "backbone": {"name": "nano", "build": "0123456789abcdef"},
    "images": {"counts": {"daisy": 40, "roses": 60}, "train": 80, "held_out": 20},
    "decision": {
        "verdict": "hold",
        "evidence": "strong",
        "reason": "worse",
        "n_held_out": 20,
        "accuracy": 0.9,
        "accuracy_low": 0.7,
        "accuracy_high": 0.97,
        "only_candidate": ["roses"],
        "classes": [
            {"label": "daisy", "n_held_out": 8, "recall": 1.0, "live_recall": 1.0},
            {"label": "roses", "n_held_out": 12, "recall": 0.75, "live_recall": None},
        ],
    },
    "training": {"C": 0.1, "grid": [1, 2, 3]},
    "n_problems": 25,
    "problems": [{"kind": "bad_image", "where": f"{n}.jpg", "reason": "truncated"} for n in range(25)],
}


def text_of(report: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=200)
    for part in report_parts(report):
        console.print(part)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_it_tells_the_verdict_its_reason_and_the_accuracy_with_its_interval() -> None:
    text = text_of(REPORT)
    assert "flowers: worse" in text
    assert "hold (strong evidence)" in text
    assert "90.0 % on 20 held-out images (95 % interval 70.0 to 97.0 %)" in text


def test_the_weakest_class_comes_first_and_a_new_one_has_no_live_recall() -> None:
    lines = text_of(REPORT).splitlines()
    rows = [line.split() for line in lines if line.startswith(("daisy", "roses"))]
    assert [row[0] for row in rows] == ["roses", "daisy"]
    assert rows[0][1:4] == ["75.0", "%", "-"]


def test_many_problems_are_cut_and_counted() -> None:
    text = text_of(REPORT)
    assert "25 problems" in text
    assert text.count("truncated") == 20


def test_a_report_without_parts_is_shown_without_them() -> None:
    assert "no decision recorded" in text_of({"model": "flowers"})


FULL: dict[str, Any] = REPORT | {
    "plan": {"strategy": "taps"},
    "strategy": {"reason": "earlier taps tell the classes apart better"},
    "training": {
        "temperature": 1.25,
        "choice": "ridge: as good as the others, and simpler",
        "comparison": [
            {
                "kind": "softmax",
                "cv_accuracy": 0.91,
                "nll": 0.3,
                "ece": 0.02,
                "seconds": 1.5,
                "chosen": False,
            },
            {"kind": "ridge", "cv_accuracy": 0.915, "nll": None, "ece": 0.01, "seconds": 0.2, "chosen": True},
            {"kind": "mlp", "chosen": False, "why_not": "left out"},
        ],
        "out_of_fold": {"nll_before": 0.4, "nll_after": 0.35, "ece_before": 0.05, "ece_after": 0.01},
    },
    "augmentation": {"gain": 0.009, "standard_error": 0.004, "kept": True, "reason": "light views helped"},
    "learning_curve": {"points": [], "reading": "More images would help."},
    "health": {
        "findings": [
            {
                "kind": "bad_image",
                "severity": "warning",
                "sentence": "25 files cannot be decoded.",
                "count": 25,
                "paths": [f"{n}.jpg" for n in range(25)],
                "notes": ["truncated"] * 25,
            }
        ]
    },
    "mislabelled": [
        {"path": f"daisy/{n}.jpg", "given": "daisy", "suggested": "roses", "score": 0.9} for n in range(12)
    ],
}


def test_strategy_heads_augmentation_calibration_and_learning_curve_take_a_line_each() -> None:
    lines = text_of(FULL).splitlines()
    assert "Strategy: taps: earlier taps tell the classes apart better" in lines
    assert "Head: ridge: as good as the others, and simpler" in lines
    assert "Augmentation: +0.9 points (standard error 0.4), kept: light views helped" in lines
    assert "Calibration: ECE 5.0 % to 1.0 %, NLL 0.400 to 0.350 by temperature 1.25, out of fold" in lines
    assert "Learning curve: More images would help." in lines


def test_a_fine_tuned_backbone_is_told_with_what_it_gained() -> None:
    backbone = REPORT["backbone"] | {"tuned_from": "fedcba9876543210"}
    text = text_of(REPORT | {"backbone": backbone, "tuning": {"reason": "83.3% became 100.0%"}})
    assert "Backbone: nano (build 0123456789ab, fine-tuned here)\n" in text
    assert "Fine-tuning: 83.3% became 100.0%\n" in text
    assert "ine-tun" not in text_of(REPORT)


def test_the_heads_are_compared_the_best_first_and_the_chosen_one_is_marked() -> None:
    lines = text_of(FULL).splitlines()
    rows = [line.split() for line in lines if line.startswith(("softmax", "ridge", "mlp"))]
    assert [row[0] for row in rows] == ["ridge", "softmax", "mlp"]
    assert rows[0][1:5] == ["(chosen)", "91.5", "%", "-"]
    assert rows[2][1:] == ["-", "-", "-", "-"]


def test_findings_name_their_first_paths_and_are_not_told_again_as_problems() -> None:
    text = text_of(FULL)
    assert "  25 files cannot be decoded.\n    0.jpg: truncated\n" in text
    assert "    ... and 22 more" in text
    assert text.count("truncated") == 3
    assert "problems in the folder" not in text


def test_the_most_suspicious_images_are_listed_with_both_classes() -> None:
    text = text_of(FULL)
    assert "  daisy/0.jpg: daisy -> roses\n" in text
    assert text.count("-> roses") == 10
    assert "  ... and 2 more" in text


def test_parts_that_are_null_are_left_out() -> None:
    names = ("strategy", "plan", "training", "augmentation", "learning_curve", "health", "mislabelled")
    text = text_of({"model": "flowers"} | dict.fromkeys(names))
    assert text.strip() == "flowers: no decision recorded"
