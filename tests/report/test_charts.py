"""Charts: valid SVG, marks where the numbers are, words for readers who cannot see them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tlserve.report.charts import Bin, Point, Scale, bar, line_chart, reliability_chart

POINTS = [Point(10 * 2**n, 0.7 + n / 20, 0.6 + n / 20, 0.8 + n / 20, f"point {n}") for n in range(4)]


def numbers(svg: ElementTree.Element, path: str, name: str) -> list[float]:
    return [float(one.attrib[name]) for one in svg.findall(path)]


def test_a_line_rises_with_its_values_and_says_them() -> None:
    svg = ElementTree.fromstring(
        line_chart(POINTS, title="A <title>", description="said", x_label="x", y_label="y", log_x=True)
    )
    assert svg.attrib["aria-label"] == "A <title>"
    assert svg.findtext("desc") == "said"
    marks = svg.findall("circle")
    assert [mark.findtext("title") for mark in marks] == [f"point {n}" for n in range(4)]
    heights = numbers(svg, "circle", "cy")
    assert heights == sorted(heights, reverse=True)
    steps = [
        b - a for a, b in zip(numbers(svg, "circle", "cx"), numbers(svg, "circle", "cx")[1:], strict=False)
    ]
    assert max(steps) - min(steps) < 0.2, "equal ratios are equal distances on a logarithmic axis"
    assert svg.find("polygon") is not None


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_line_of_equal_values_has_a_scale_all_the_same(value: float) -> None:
    points = [Point(1, value), Point(2, value)]
    svg = ElementTree.fromstring(line_chart(points, title="", description="", x_label="", y_label=""))
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    assert all(0 <= at <= height for at in numbers(svg, "circle", "cy"))
    assert all(0 <= at <= width for at in numbers(svg, "circle", "cx"))


def test_reliability_bars_are_as_tall_as_the_share_that_was_right() -> None:
    bins = [
        Bin(0.0, 0.5, 0.25, 0.1, 0.4, 10, "low"),
        Bin(0.5, 0.8, 0.0, 0.0, 0.0, 0, "empty"),
        Bin(0.8, 1.0, 1.0, 0.9, 1.0, 30, "high"),
    ]
    svg = ElementTree.fromstring(reliability_chart(bins, title="", description=""))
    low, high = numbers(svg, "g/rect[@class='accent']", "height")
    assert high == pytest.approx(4 * low, abs=0.5)
    assert [group.findtext("title") for group in svg.findall("g")] == ["low", "empty", "high"]


def test_strips_and_bars_stretch_with_their_cell() -> None:
    scale = Scale.of([0.81, None, 0.93])
    assert (scale.start, scale.end) == pytest.approx((0.8, 0.95))
    assert str(scale) == "80–95\N{NO-BREAK SPACE}%"
    svg = ElementTree.fromstring(scale.strip(0.8, 0.7, 0.95, other=0.95))
    assert [dot.attrib["cx"] for dot in svg.findall("circle")] == ["98.00%", "2.00%"]
    assert svg.find("line[@class='span']").attrib == {  # type: ignore[union-attr]
        "class": "span",
        "x1": "2.00%",
        "x2": "98.00%",
        "y1": "50%",
        "y2": "50%",
    }
    assert ElementTree.fromstring(bar(2.0)).findall("rect")[1].attrib["width"] == "100.0%"
    assert bar(None) == ""
    assert str(Scale.of([None])) == "0–100\N{NO-BREAK SPACE}%"
