"""Transfer steering vectors between language models, and measure whether they transfer.

    import lrt_dist

    vector = lrt_dist.SteeringVector.load("runs/first/vectors/mood-source-15.safetensors")
    vector = lrt_dist.AffineMap.load("runs/first/maps/15-9.safetensors").transfer(vector)
    with lrt_dist.steer(model, vector, strength=0.05):  # any causal LM of transformers
        model.generate(...)

    fit = lrt_dist.fit(x, y, groups=documents)  # hidden states [n, d] of your own
    results = lrt_dist.run("RUN.yaml", out="runs/first")  # the whole system

The commands one by one are in `lrt_dist.api`; the command line is `lrt-dist`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lrt_dist.version import __version__

if TYPE_CHECKING:
    from lrt_dist.api import run
    from lrt_dist.linear.fit import FitMetrics
    from lrt_dist.maps.affine import AffineMap
    from lrt_dist.maps.arrays import Fit, fit
    from lrt_dist.maps.vectors import SteeringVector
    from lrt_dist.models.steer import steer
    from lrt_dist.report.results import Results
    from lrt_dist.runfile import load_run

__all__ = [
    "AffineMap",
    "Fit",
    "FitMetrics",
    "Results",
    "SteeringVector",
    "__version__",
    "fit",
    "load_run",
    "run",
    "steer",
]

_HOMES = {
    "AffineMap": "lrt_dist.maps.affine",
    "Fit": "lrt_dist.maps.arrays",
    "FitMetrics": "lrt_dist.linear.fit",
    "Results": "lrt_dist.report.results",
    "SteeringVector": "lrt_dist.maps.vectors",
    "fit": "lrt_dist.maps.arrays",
    "load_run": "lrt_dist.runfile",
    "run": "lrt_dist.api",
    "steer": "lrt_dist.models.steer",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import on first use: `lrt-dist --help` should not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
