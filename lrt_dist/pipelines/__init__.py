"""The public verbs: each joins a plan, stages and a runtime. Every one can be run again."""

from lrt_dist.pipelines.evaluate import evaluate
from lrt_dist.pipelines.extract import extract
from lrt_dist.pipelines.fit import fit
from lrt_dist.pipelines.folder import RunFolder
from lrt_dist.pipelines.index import index
from lrt_dist.pipelines.plan import plan
from lrt_dist.pipelines.report import report
from lrt_dist.pipelines.run import Run, open_run
from lrt_dist.pipelines.status import status
from lrt_dist.pipelines.verify import verify

__all__ = [
    "Run",
    "RunFolder",
    "evaluate",
    "extract",
    "fit",
    "index",
    "open_run",
    "plan",
    "report",
    "status",
    "verify",
]
