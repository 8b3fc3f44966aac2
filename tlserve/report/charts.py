"""The charts of a report as inline SVG: no script, no library, colours from the page's own CSS.

Each chart has a title and a description for readers who cannot see it, and each mark a tooltip. Bars and
strips use percentages, so that they stretch with their table cell while strokes and text keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

WIDTH, HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 24, 12, 42
_STEPS = (1, 2, 2.5, 5, 10)
_WIDEST_TICK = 34
"""Pixels that the text of one tick takes."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a line; `low` and `high` bound the band around it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a reliability diagram: how often answers of that confidence were right."""

    low: float
    high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    count: int
    title: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to pixels, with its ticks."""

    start: float
    end: float
    first_pixel: float
    last_pixel: float
    log: bool = False

    def at(self, value: float) -> float:
        start, end = self._scaled(self.start), self._scaled(self.end)
        share = (self._scaled(value) - start) / ((end - start) or 1)
        return self.first_pixel + share * (self.last_pixel - self.first_pixel)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def line_chart(
    points: Sequence[Point], *, title: str, description: str, x_label: str, y_label: str, log_x: bool = False
) -> Markup:
    """A line of shares against anything, with a band where the points have bounds.

    points: by rising x; x above 0 where `log_x`. The y axis shows the part that the data needs.
    """
    values = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    low, high, step = _round_range(min(values), max(values))
    x = Axis(points[0].x, points[-1].x, _LEFT + 8, WIDTH - _RIGHT - 8, log=log_x)
    y = Axis(low, high, HEIGHT - _BOTTOM, _TOP)
    parts = [_y_ticks(y, _ticks(low, high, step)), _x_ticks(x, [p.x for p in points])]
    banded = [(p, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    if len(banded) > 1:
        outline = [(x.at(p.x), y.at(top)) for p, _, top in banded]
        outline += [(x.at(p.x), y.at(bottom)) for p, bottom, _ in reversed(banded)]
        parts.append(Markup('<polygon class="band" points="{}"/>').format(_pixels(outline)))
    if len(points) > 1:
        line = _pixels((x.at(p.x), y.at(p.y)) for p in points)
        parts.append(Markup('<polyline class="line" points="{}"/>').format(line))
    for p, bottom, top in banded:
        parts.append(_whisker(x.at(p.x), y.at(bottom), y.at(top)))
    for p in points:
        mark = Markup('<circle class="mark" cx="{}" cy="{}" r="4"><title>{}</title></circle>')
        parts.append(mark.format(_px(x.at(p.x)), _px(y.at(p.y)), p.title))
    parts.append(_axis_labels(x_label, y_label))
    return _figure(parts, title, description)


def reliability_chart(bins: Sequence[Bin], *, title: str, description: str) -> Markup:
    """Bars of the share that was right by confidence; on the dashed diagonal both agree.

    Below, how many answers fell into each bin.
    """
    x = Axis(0, 1, _LEFT, WIDTH - _RIGHT)
    y = Axis(0, 1, HEIGHT - _BOTTOM - 34, _TOP)
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    parts = [_y_ticks(y, ticks), _x_ticks(x, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), percent=True)]
    most = max((one.count for one in bins), default=1) or 1
    for one in bins:
        parts.append(_reliability_bar(one, x, y, most))
    diagonal = Markup('<line class="ideal" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    parts.append(diagonal.format(_px(x.at(0)), _px(y.at(0)), _px(x.at(1)), _px(y.at(1))))
    note = Markup('<text class="note" x="{}" y="{}" text-anchor="end">answers</text>')
    parts.append(note.format(_LEFT - 7, HEIGHT - _BOTTOM - 2))
    parts.append(_axis_labels("how sure the model was", "share that was right"))
    return _figure(parts, title, description)


def bar(share: float | None, tone: Literal["accent", "good", "warn", "quiet"] = "accent") -> Markup:
    """A horizontal bar of a share in [0, 1], as wide as its cell; decoration beside the number."""
    if share is None:
        return Markup("")
    filled = f"{min(1.0, max(0.0, share)) * 100:.1f}%"
    return Markup(
        '<svg class="bar" aria-hidden="true"><rect class="track" width="100%" height="100%" rx="3"/>'
        '<rect class="{}" width="{}" height="100%" rx="3"/></svg>'
    ).format(tone, filled)


@dataclass(frozen=True, slots=True)
class Scale:
    """The ends of strips that stand below each other, shares in [0, 1]."""

    start: float = 0.0
    end: float = 1.0

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Scale:
        """Round ends around the values; the whole range without any."""
        known = [value for value in values if value is not None]
        if not known:
            return cls()
        low, high, _ = _round_range(min(known), max(known))
        return cls(low, high)

    def __str__(self) -> str:
        return f"{round(self.start * 100, 1):g}\N{EN DASH}{_percent(self.end)}"

    def strip(
        self,
        value: float | None,
        low: float | None = None,
        high: float | None = None,
        *,
        other: float | None = None,
    ) -> Markup:
        """A dot with its bounds, as wide as its cell; `other` is a hollow dot. Decoration beside numbers."""
        parts = [Markup('<line class="track" x1="0" x2="100%" y1="50%" y2="50%"/>')]
        if low is not None and high is not None:
            span = Markup('<line class="span" x1="{}" x2="{}" y1="50%" y2="50%"/>')
            parts.append(span.format(self._at(low), self._at(high)))
        if other is not None:
            parts.append(Markup('<circle class="other" cx="{}" cy="50%" r="4.5"/>').format(self._at(other)))
        if value is not None:
            parts.append(Markup('<circle class="mark" cx="{}" cy="50%" r="4.5"/>').format(self._at(value)))
        return Markup('<svg class="strip" aria-hidden="true">{}</svg>').format(Markup("").join(parts))

    def _at(self, value: float) -> str:
        share = (value - self.start) / ((self.end - self.start) or 1)
        return f"{2 + 96 * min(1.0, max(0.0, share)):.2f}%"


def _reliability_bar(one: Bin, x: Axis, y: Axis, most: int) -> Markup:
    left, right = x.at(one.low) + 1, x.at(one.high) - 1
    floor = HEIGHT - _BOTTOM
    tall = max(1.0, 24 * one.count / most) if one.count else 0.0
    whole = Markup("<g><title>{}</title>{}{}{}</g>")
    rect = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
    amount = rect.format("amount", _px(left), _px(floor - tall), _px(right - left), _px(tall))
    if not one.count:
        return whole.format(one.title, amount, "", "")
    top = y.at(one.accuracy)
    return whole.format(
        one.title,
        rect.format("accent", _px(left), _px(top), _px(right - left), _px(y.at(0) - top)),
        amount,
        _whisker((left + right) / 2, y.at(one.accuracy_low), y.at(one.accuracy_high)),
    )


def _figure(parts: Iterable[Markup], title: str, description: str) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><desc>{}</desc>{}</svg>'
    ).format(WIDTH, HEIGHT, title, description, Markup("").join(parts))


def _whisker(x: float, bottom: float, top: float) -> Markup:
    line = Markup('<path class="whisker" d="M{} {}V{}M{} {}h6M{} {}h6"/>')
    return line.format(
        _px(x), _px(bottom), _px(top), _px(x - 3), _px(bottom), _px(x - 3), _px(top)
    )  # fmt: skip


def _y_ticks(y: Axis, values: Iterable[float]) -> Markup:
    tick = Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>'
    )
    return Markup("").join(
        tick.format(_LEFT, WIDTH - _RIGHT, at, at, _LEFT - 7, _px(y.at(value) + 4), _percent(value))
        for value, at in ((value, _px(y.at(value))) for value in values)
    )


def _x_ticks(x: Axis, values: Iterable[float], *, percent: bool = False) -> Markup:
    """A tick at each value, left out where it would touch the one before; the last always stands."""
    kept: list[float] = []
    for value in values:
        kept.append(value)
    chosen: list[float] = []
    for value in reversed(kept):
        if not chosen or x.at(chosen[-1]) - x.at(value) >= _WIDEST_TICK:
            chosen.append(value)
    tick = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
    return Markup("").join(
        tick.format(_px(x.at(value)), HEIGHT - _BOTTOM + 16, _percent(value) if percent else f"{value:,.0f}")
        for value in reversed(chosen)
    )


def _axis_labels(x_label: str, y_label: str) -> Markup:
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    return Markup(
        '<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text class="label" transform="translate(12 {}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format(_px((_LEFT + WIDTH - _RIGHT) / 2), HEIGHT - 6, x_label, _px(middle), y_label)


def _round_range(low: float, high: float) -> tuple[float, float, float]:
    """Round ends around shares, within [0, 1], and the step between ticks."""
    span = max(high - low, 0.02)
    step = _round_step(span / 4)
    first = max(0.0, math.floor(low / step + 1e-9) * step)
    last = min(1.0, math.ceil(high / step - 1e-9) * step)
    if last - first < step:
        first = max(0.0, last - step)
    return first, last, step


def _round_step(raw: float) -> float:
    size: float = 10.0 ** math.floor(math.log10(raw))
    return next(step * size for step in _STEPS if step * size >= raw - 1e-12)


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [low + step * n for n in range(int((high - low) / step + 1.001))]


def _percent(value: float) -> str:
    shown = round(value * 100, 1)
    return f"{shown:g}\N{NO-BREAK SPACE}%"


def _pixels(corners: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_px(x)},{_px(y)}" for x, y in corners)


def _px(value: float) -> str:
    return f"{value:.1f}"
