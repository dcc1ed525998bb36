"""Bar charts drawn on the server as SVG: nothing to load, nothing to run, readable in print and by a screen reader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

# Units of the drawing; it is scaled to the width there is.
_WIDTH, _HEIGHT, _GAP = 600.0, 120.0, 0.25
# Something that is not nothing can be seen.
_LEAST = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One bar: `label` is its place on the axis, `told` what is said of it when it is pointed at."""

    label: str
    value: Decimal | float
    told: str


@dataclass(frozen=True, slots=True)
class _Bar:
    x: str
    y: str
    width: str
    height: str
    told: str


def bar_chart(title: str, values: Sequence[Value], *, highest: str) -> SafeString:
    """Return a chart of `values`, from left to right. `highest` is how the largest of them is written."""
    return render_to_string(
        "profiles/admin/bar_chart.html",
        {
            "title": title,
            "bars": list(_bars(values)),
            "highest": highest,
            "first": values[0].label if values else "",
            "last": values[-1].label if values else "",
            "width": f"{_WIDTH:g}",
            "height": f"{_HEIGHT:g}",
        },
    )


def _bars(values: Sequence[Value]) -> Iterable[_Bar]:
    top = max((float(value.value) for value in values), default=0.0)
    step = _WIDTH / max(1, len(values))
    for place, value in enumerate(values):
        share = float(value.value) / top if top > 0 else 0.0
        height = max(_LEAST, share * _HEIGHT) if value.value > 0 else 0.0
        yield _Bar(
            x=f"{(place + _GAP / 2) * step:.2f}",
            y=f"{_HEIGHT - height:.2f}",
            width=f"{(1 - _GAP) * step:.2f}",
            height=f"{height:.2f}",
            told=f"{value.label}: {value.told}",
        )
