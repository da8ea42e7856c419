"""Further figures that a run asks for by name."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from lrt_dist.errors import UserError
from lrt_dist.registry import Registry
from lrt_dist.report.drawing import drawn_as, svg
from lrt_dist.report.results import Results

RunFigure = Callable[[Results], Figure]
"""A figure about a whole run, which `report.figures` names; its docstring is its caption."""

FIGURES: Registry[RunFigure] = Registry("figure", callable, "a function")


def run_figure(name: str, results: Results) -> tuple[str, str]:
    """A further figure as SVG, and its caption.

    Raises:
        UserError: there is no figure of that name, or it draws something else.
    """
    draw = FIGURES.find(name)
    caption = (draw.__doc__ or name).strip().split("\n\n")[0]
    with drawn_as(name):
        figure = draw(results)
        if not isinstance(figure, Figure):
            raise UserError(
                f"report.figures: {name} returned a {type(figure).__name__}, not a matplotlib "
                "Figure"
            )
        return svg(figure, caption, themed=False), caption
