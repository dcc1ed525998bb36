"""The overview's charts, drawn on the server as SVG: nothing to load, nothing to run, and a table of the same figures
below each for whoever cannot see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# Units of the drawing, which is stretched to the room there is.
_WIDTH, _HEIGHT = 600.0, 100.0
_GAP = 0.2
# Something that is not nothing can be seen.
_LEAST = 1.0
_MOST_LABELS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One colour of a chart; `kind` names it: good, bad, warn, info, quiet. `values`: one for each part, None: nothing
    to show there."""

    title: str
    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The parts of the time: what stands below them, what they are called when they are pointed at, and the pages that
    list what was counted in each; an empty URL where there is nothing to list."""

    labels: Sequence[str]
    told: Sequence[str]
    urls: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    kind: str
    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A part of the time: where its tip is shown, and what that says."""

    x: str
    width: str
    told: str
    cells: list[str]
    label: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    kind: str
    path: str
    dots: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What the template draws. Without `highest` there is nothing to draw."""

    id: str
    title: str
    about: str
    legend: list[tuple[str, str]]
    places: list[Place]
    shapes: list[Shape]
    lines: list[Line]
    labels: list[str]
    highest: str
    width: str = f"{_WIDTH:g}"
    height: str = f"{_HEIGHT:g}"


def bars(
    chart_id: str,
    title: str,
    series: Sequence[Series],
    *,
    axis: Axis,
    written: Callable[[float], str],
    about: str = "",
) -> Chart:
    """Return a chart of bars that are piled up, the first series below."""
    totals = [sum(one.values[place] or 0 for one in series) for place in range(len(axis.labels))]
    top = max(totals, default=0)
    step = _WIDTH / max(1, len(axis.labels))
    shapes: list[Shape] = []
    for place in range(len(axis.labels)):
        base = _HEIGHT
        for one in series:
            value = one.values[place] or 0
            if value <= 0:
                continue
            height = max(_LEAST, value / top * _HEIGHT)
            base -= height
            shapes.append(
                Shape(
                    kind=one.kind,
                    x=_written(place * step + step * _GAP / 2),
                    y=_written(max(0.0, base)),
                    width=_written(step * (1 - _GAP)),
                    height=_written(height),
                )
            )
    return Chart(
        id=chart_id,
        title=title,
        about=about,
        legend=[(one.title, one.kind) for one in series],
        places=list(_places(series, axis, written)),
        shapes=shapes,
        lines=[],
        labels=_spread(axis.labels),
        highest=written(top) if top > 0 else "",
    )


def lines(
    chart_id: str,
    title: str,
    series: Sequence[Series],
    *,
    axis: Axis,
    written: Callable[[float], str],
    about: str = "",
) -> Chart:
    """Return a chart of lines. Where a series has no value its line is interrupted; a value alone is a dot."""
    top = max((value for one in series for value in one.values if value is not None), default=0.0)
    step = _WIDTH / max(1, len(axis.labels))
    drawn = []
    for one in series if top > 0 else ():
        runs: list[list[tuple[float, float]]] = [[]]
        for place, value in enumerate(one.values):
            if value is None:
                runs.append([])
            else:
                runs[-1].append(((place + 0.5) * step, _HEIGHT - value / top * _HEIGHT))
        path = " ".join("M" + " L".join(f"{_written(x)} {_written(y)}" for x, y in run) for run in runs if len(run) > 1)
        dots = [(_written(run[0][0]), _written(run[0][1])) for run in runs if len(run) == 1]
        drawn.append(Line(kind=one.kind, path=path, dots=dots))
    return Chart(
        id=chart_id,
        title=title,
        about=about,
        legend=[(one.title, one.kind) for one in series],
        places=list(_places(series, axis, written)),
        shapes=[],
        lines=drawn,
        labels=_spread(axis.labels),
        highest=written(top) if top > 0 else "",
    )


def _places(series: Sequence[Series], axis: Axis, written: Callable[[float], str]) -> Iterator[Place]:
    step = _WIDTH / max(1, len(axis.labels))
    for place in range(len(axis.labels)):
        values = [one.values[place] for one in series]
        cells = ["–" if value is None else written(value) for value in values]
        said = ", ".join(f"{one.title} {cell}" for one, cell in zip(series, cells, strict=True))
        yield Place(
            x=_written(place * step),
            width=_written(step),
            told=f"{axis.told[place]}: {said}",
            cells=cells,
            label=axis.told[place],
            url=axis.urls[place],
        )


def _spread(labels: Sequence[str]) -> list[str]:
    """A few of the labels, as far apart as one another."""
    if len(labels) <= _MOST_LABELS:
        return list(labels)
    step = (len(labels) - 1) / (_MOST_LABELS - 1)
    return [labels[round(number * step)] for number in range(_MOST_LABELS)]


def _written(number: float) -> str:
    return f"{number:.2f}"
