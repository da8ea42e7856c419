"""Transfer steering vectors between language models, and measure whether they transfer.

    import lrt_dist

    fit = lrt_dist.fit(x, y, groups=documents)     # hidden states [n, d] of the same rows
    fit.report.r2, fit.report.r2_shuffled          # of held-out documents, and of the null
    fit.map.map_directions(steering_vector)

The whole system, from texts to a report, is `lrt_dist.verbs` and the command `lrt-dist`.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrt_dist.linear.affine import AffineMap
    from lrt_dist.linear.arrays import fit
    from lrt_dist.linear.fit import Fit, FitReport
    from lrt_dist.linear.vectors import SteeringVector

__all__ = ["AffineMap", "Fit", "FitReport", "SteeringVector", "fit"]

try:
    __version__ = version("lrt-dist")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "AffineMap": "lrt_dist.linear.affine",
    "Fit": "lrt_dist.linear.fit",
    "FitReport": "lrt_dist.linear.fit",
    "SteeringVector": "lrt_dist.linear.vectors",
    "fit": "lrt_dist.linear.arrays",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `lrt-dist --help` should not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
