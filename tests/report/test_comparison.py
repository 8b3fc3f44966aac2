"""The page that compares backbones: all rows, one recommendation, plots that are drawn in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.html_pages import Page
from tlserve.report import render_comparison

MARKUP = "</script><script>alert(1)</script>"
SECONDS = 60


def row(backbone: str, accuracy: float, predict_ms: float, **more: Any) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "licence": "BSD-3-Clause",
        "n_parameters": 5_483_032,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.02,
        "accuracy_high": accuracy + 0.02,
        "head": "softmax",
        "extract_seconds": 10 * predict_ms,
        "images_per_second": 100 / predict_ms,
        "train_seconds": 3.5,
        "predict_ms": predict_ms,
        "graph_mb": 4 * predict_ms,
        "row_width": 960,
        "error": None,
        "live": False,
        **more,
    }


def comparison(*more: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "flowers",
        "n_images": 2934,
        "n_classes": 5,
        "created": "2026-01-02T03:04:05Z",
        "device": "CPU",
        "rows": [
            row("mobilenet", 0.902, 4.9),
            row("nano", 0.861, 1.8, live=True),
            row("resnet50", 0.915, 24.4),
            {"backbone": "vit", "error": "weights not found"},
            *more,
        ],
    }


def test_every_backbone_has_a_row_with_its_numbers_and_the_command_that_adopts_it() -> None:
    page = Page(render_comparison(comparison()))
    assert page.values("data-backbone") == ["resnet50", "mobilenet", "nano", "vit"]
    for said in ("90.2", "88.2 to 92.2", "4.9 ms", "19.6 MB", "5.5 M parameters", "960 features", "3.50 s"):
        assert said in page.text, said
    assert "weights not found" in page.text
    assert set(page.values("data-command")) == {
        "tlserve adopt flowers mobilenet",
        "tlserve adopt flowers resnet50",
    }


def test_one_is_recommended_with_the_reason() -> None:
    text = Page(render_comparison(comparison())).text
    assert "We would take resnet50: its accuracy, 91.5" in text
    near = row("quick", 0.91, 2.0)
    text = Page(render_comparison(comparison(near))).text
    assert "We would take quick: its accuracy, 91.0" in text
    assert "2 ms per prediction instead of 24.4 ms per prediction" in text


def test_where_the_recommended_one_is_live_nothing_needs_doing() -> None:
    page = Page(render_comparison(comparison(row("best", 0.99, 1.0, live=True))))
    assert "nothing needs doing" in page.text
    assert "tlserve adopt flowers best" not in page.values("data-command")


@pytest.mark.parametrize("found", [{}, {"rows": None}, {"rows": [{}]}, {"rows": [{"backbone": "a"}]}])
def test_missing_values_are_no_error(found: dict[str, Any]) -> None:
    assert "No backbone could be measured" in Page(render_comparison(found)).text


def test_words_of_users_are_text_and_never_markup() -> None:
    found = comparison(row(MARKUP, 0.95, 1.0, licence=MARKUP), {"backbone": "x", "error": MARKUP})
    html = render_comparison(found | {"model": MARKUP, "device": MARKUP})
    page = Page(html)
    assert MARKUP not in html
    assert page.tags.count("script") == 2, "the data and the script, and no other"
    assert MARKUP in page.text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["rows"][0]["backbone"] == MARKUP


def test_the_page_asks_for_nothing_outside_itself() -> None:
    html = render_comparison(comparison())
    page = Page(html)
    assert page.values("src") == []
    assert all(value.startswith("#") for value in page.values("href"))
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert len(html) < 60_000


Browse = Callable[[Path], str]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """What a browser makes of a page, as HTML; skips the test where none works."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs chromium, which is not on this machine")

    def run(page: Path) -> str:
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [program, *flags, profile, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as exc:
            pytest.skip(f"chromium does not run here: {exc}")
        return done.stdout

    probe = tmp_path / "probe.html"
    probe.write_text("<script>document.title = 6 * 7</script>", encoding="utf-8")
    if "<title>42</title>" not in run(probe):
        pytest.skip("chromium does not run scripts here")
    return run


def test_in_a_browser_the_plots_are_drawn(browse: Browse, tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    page.write_text(render_comparison(comparison()), encoding="utf-8")
    drawn = browse(page)
    points = re.findall(r'<g class="point([^"]*)"[^>]*data-backbone="([^"]*)"', drawn)
    assert {name for _, name in points} == {"mobilenet", "nano", "resnet50"}
    assert all("on" in kinds.split() for kinds, _ in points), "each is on the front"
    assert drawn.count('class="fill"') == 3
    assert re.search(r'<div id="details"[^>]*><h3>resnet50</h3>', drawn)
