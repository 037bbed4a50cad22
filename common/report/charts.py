"""Charts as inline SVG, in the colours of the page that they are in."""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

from markupsafe import Markup, escape

from common.report.statistics import Bin

# Sizes are those of the viewBox; the page scales it.
_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 10, 40
# A curve with more points would not look different.
_MOST_POINTS = 400


class Series(NamedTuple):
    """A curve: its name and its points."""

    name: str
    points: Sequence[Tuple[float, float]]
    has_dots: bool = False


class _Axes:
    """Where the values of two ranges are in the picture."""

    def __init__(self, x_range: Tuple[float, float], y_range: Tuple[float, float]):
        self.x_range, self.y_range = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self, x_label: str, y_label: str) -> List[Markup]:
        """Lines, numbers and names of both axes."""
        parts = []
        for value in ticks(*self.x_range):
            line = '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
            text = '<text x="{0:.1f}" y="{3}" text-anchor="middle">{4}</text>'
            at = self.x(value), _TOP, _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM + 15, _number(value)
            parts.append(Markup(line + text).format(*at))
        for value in ticks(*self.y_range):
            line = '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
            text = '<text x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
            y = self.y(value)
            at = _LEFT, _WIDTH - _RIGHT, y, _LEFT - 6, y + 4, _number(value)
            parts.append(Markup(line + text).format(*at))
        x_name = '<text x="{}" y="{}" text-anchor="middle">{}</text>'
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(Markup(x_name).format(middle, _HEIGHT - 5, x_label))
        y_name = '<text transform="translate(12 {}) rotate(-90)" text-anchor="middle">{}</text>'
        parts.append(Markup(y_name).format((_TOP + _HEIGHT - _BOTTOM) / 2, y_label))
        return parts


def lines(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_range: Optional[Tuple[float, float]] = None,
    y_range: Optional[Tuple[float, float]] = None,
) -> Markup:
    """A chart of curves; a range that is not given is that of the points."""
    shown = [s._replace(points=_thinned(s.points)) for s in series]
    axes = _Axes(
        x_range or _range([x for s in shown for x, _ in s.points]),
        y_range or _range([y for s in shown for _, y in s.points]),
    )
    parts = axes.grid(x_label, y_label)
    for number, one in enumerate(shown):
        places = [(axes.x(x), axes.y(y)) for x, y in one.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(number, path))
        for x, y in places if one.has_dots else ():
            dot = '<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="3"/>'
            parts.append(Markup(dot).format(number, x, y))
    return _svg(title, parts)


def reliability(title: str, bins: Sequence[Bin]) -> Markup:
    """A reliability diagram: bars of the accuracy at each confidence beside the diagonal."""
    axes = _Axes((0.0, 1.0), (0.0, 1.0))
    parts = axes.grid("confidence", "accuracy")
    for one in bins:
        if one.images:
            left, right, top = axes.x(one.low), axes.x(one.high), axes.y(one.accuracy)
            bar = '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
            bar += "<title>{} answers of confidence {:.0%} to {:.0%}: {:.1%} right</title></rect>"
            size = right - left - 1.5, axes.y(0.0) - top
            says = one.images, one.low, one.high, one.accuracy
            parts.append(Markup(bar).format(left + 0.75, top, *size, *says))
    diagonal = axes.x(0.0), axes.y(0.0), axes.x(1.0), axes.y(1.0)
    line = '<line class="line s1" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    parts.append(Markup(line).format(*diagonal))
    return _svg(title, parts)


def _svg(title: str, parts: Sequence[Markup]) -> Markup:
    start = '<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}">'
    return Markup(start).format(title, _WIDTH, _HEIGHT) + Markup("").join(parts) + Markup("</svg>")


def ticks(low: float, high: float) -> List[float]:
    """Round numbers in a range, about five."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return escape(f"{value:,.6g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}")


def _range(values: Sequence[float]) -> Tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return low - max(1.0, abs(low)) / 2, high + max(1.0, abs(high)) / 2
    return low, high


def _thinned(points: Sequence[Tuple[float, float]]) -> List[Tuple[float, float]]:
    """The finite points, or so many of them that one sees the same."""
    finite = [point for point in points if all(map(math.isfinite, point))]
    step = -(-len(finite) // _MOST_POINTS) or 1
    return [*finite[:-1:step], *finite[-1:]]
