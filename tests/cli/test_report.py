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
