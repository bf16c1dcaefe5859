"""What the command's pictures share: figures without the global state of pyplot, colours, legends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STUDENT, ALONE, TEACHER, FAILED = "#0072B2", "#E69F00", "#444444", "#D55E00"
"""The same colour for the same thing in every picture; told apart by colour-blind readers too."""

LINES = (STUDENT, "#009E73", "#CC79A7", ALONE, "#56B4E9", "#8C6D31", "#7F3C8D", "#999933")
"""Colours of lines that stand for no particular model, in the order they are used."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure in inches; it belongs to the caller alone."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def tidy(axes: Axes) -> None:
    """Leave what the eye needs: two spines and a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def logarithmic(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with numbers as people write them: 0.6, not 6 × 10⁻¹."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(Plain())
    axes.yaxis.set_minor_formatter(Plain(minor_thresholds=(1.2, 0.5)))


def legend(axes: Axes, title: str | None = None) -> None:
    """Say which line is which: inside the axes, or below them where a long list would hide the lines."""
    names = axes.get_legend_handles_labels()[1]
    if 0 < len(names) <= 4:
        axes.legend(title=title, fontsize=8, title_fontsize=8, framealpha=0.85, edgecolor="none")
    elif names:
        columns = 3 if max(map(len, names)) < 22 else 2
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": columns}
        axes.legend(title=title, fontsize=8, title_fontsize=8, frameon=False, **below)
