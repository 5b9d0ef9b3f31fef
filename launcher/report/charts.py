"""Compute the geometry of line charts: positions from numbers. The template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]

MOST_POINTS = 600
SMOOTHING_SHARE = 0.04
LEFT, RIGHT, TOP, BOTTOM = 58.0, 16.0, 12.0, 30.0
TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One named row of points; `style` is `line`, `faint` or `dots`."""

    label: str
    points: Sequence[Point]
    style: str = "line"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A series in the chart's coordinates."""

    label: str
    style: str
    path: str
    dots: list[Point]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart ready to draw: every position is in the units of its view box."""

    title: str
    description: str
    width: float
    height: float
    series: list[Drawn]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[tuple[float, str]] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Where the plot begins."""
        return LEFT

    @property
    def right(self) -> float:
        """Where the plot ends."""
        return self.width - RIGHT

    @property
    def top(self) -> float:
        """Upper edge of the plot."""
        return TOP

    @property
    def bottom(self) -> float:
        """Lower edge of the plot."""
        return self.height - BOTTOM


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    width: float = 760,
    height: float = 300,
    marks: Sequence[tuple[float, str]] = (),
    from_zero: bool = False,
) -> Chart | None:
    """Lay out a chart of values over steps; None if there is nothing to draw.

    Args:
        title: What is drawn.
        series: Rows of (step, value); values that are not finite are left out.
        width: Width of the view box.
        height: Height of the view box.
        marks: Steps at which something happened, each with a label.
        from_zero: Whether the vertical axis begins at zero.
    """
    kept = [Series(label=s.label, style=s.style, points=_finite(s.points)) for s in series]
    kept = [s for s in kept if s.points]
    if not kept:
        return None
    x_low, x_high = _span([x for s in kept for x, _ in s.points])
    y_ticks = nice_ticks(*_span([y for s in kept for _, y in s.points] + ([0.0] if from_zero else [])))
    scale = _Scale(x_low, x_high, y_ticks[0], y_ticks[-1], width, height)
    return Chart(
        title=title,
        description=describe(title, kept),
        width=width,
        height=height,
        series=[_draw(s, scale) for s in kept],
        x_ticks=[(scale.x(t), tick_text(t)) for t in nice_ticks(x_low, x_high) if x_low <= t <= x_high],
        y_ticks=[(scale.y(t), tick_text(t)) for t in y_ticks],
        marks=[(scale.x(step), label) for step, label in marks if x_low <= step <= x_high],
    )


def describe(title: str, series: Sequence[Series]) -> str:
    """Return a description of the chart for screen readers."""
    parts = [f"{s.label} from {s.points[0][1]:.4g} to {s.points[-1][1]:.4g}" for s in series]
    return f"{title} over steps {series[0].points[0][0]:g} to {series[0].points[-1][0]:g}: {'; '.join(parts)}."


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Return a centred moving average over a few per cent of the points."""
    half = max(1, int(len(points) * SMOOTHING_SHARE / 2))
    return [(x, _mean(y for _, y in points[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)]


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return about `wanted` round numbers that enclose the span."""
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * s for s in TICK_STEPS if power * s >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Format a number for an axis, as short as possible."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.0e}".replace("e-0", "e-") if 0 < abs(value) < 1e-3 else f"{value:g}"


class _Scale:
    """Converts values to positions in the view box."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float, width: float, height: float) -> None:
        self.x_low, self.y_low = x_low, y_low
        self.x_factor = (width - LEFT - RIGHT) / (x_high - x_low)
        self.y_factor = (height - TOP - BOTTOM) / (y_high - y_low)
        self.bottom = height - BOTTOM

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x_low) * self.x_factor, 1)

    def y(self, value: float) -> float:
        return round(self.bottom - (value - self.y_low) * self.y_factor, 1)


def _draw(series: Series, scale: _Scale) -> Drawn:
    positions = [(scale.x(x), scale.y(y)) for x, y in thinned(series.points)]
    path = "M" + " L".join(f"{x} {y}" for x, y in positions)
    alone = series.style == "dots" or len(positions) == 1
    return Drawn(label=series.label, style=series.style, path=path, dots=positions if alone else [])


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most `MOST_POINTS` points, each the mean of its neighbours; the first and the last are unchanged."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / MOST_POINTS)
    buckets = [points[start : start + size] for start in range(0, len(points), size)]
    middle = [(_mean(x for x, _ in bucket), _mean(y for _, y in bucket)) for bucket in buckets[1:-1]]
    return [points[0], *middle, points[-1]]


def _finite(points: Iterable[Point]) -> list[Point]:
    return [(x, y) for x, y in points if isinstance(y, int | float) and math.isfinite(y)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the values, widened if it is empty."""
    low, high = min(values), max(values)
    margin = 0.0 if high > low else abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept)
