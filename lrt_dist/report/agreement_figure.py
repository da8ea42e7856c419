"""Predicted beside measured effects, one panel a strength."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lrt_dist.plan.conditions import Arm
from lrt_dist.report.drawing import STYLES, WIDTH, drawn_as, plain, svg
from lrt_dist.store.tables import AgreementRow


def agreement_figure(rows: Sequence[AgreementRow]) -> str:
    """All concepts together; on the line a prediction is exact."""
    strengths = sorted({row.strength for row in rows})
    columns = min(2, len(strengths))
    lines = -(-len(strengths) // columns)
    with drawn_as("agreement"):
        figure = Figure(figsize=(WIDTH, 0.3 + 2.5 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for panel, strength in zip(panels, strengths, strict=False):
            for arm, style in STYLES.items():
                own = [row for row in rows if row.arm == arm and row.strength == strength]
                drawn = style.marker == "|"
                if own:
                    panel.plot(
                        [row.predicted for row in own],
                        [row.measured for row in own],
                        linestyle="none",
                        marker="." if drawn else style.marker,
                        color=style.colour,
                        alpha=0.8,
                        markersize=7 if drawn else 4.5,
                        markeredgewidth=0,
                    )
            panel.axline((0, 0), slope=1, color=STYLES[Arm.NONE].colour, linewidth=0.8, zorder=0)
            panel.set_title(f"±{strength:g}", fontsize=11)
            panel.xaxis.set_major_locator(MaxNLocator(4))
            plain(panel, grid="both")
        for panel in panels[len(strengths) :]:
            panel.set_visible(False)
        figure.supxlabel("predicted effect", fontsize=11)
        figure.supylabel("measured effect", fontsize=11)
        return svg(figure, "Measured over predicted effects, by strength")
