"""The public verbs, for notebooks and scripts; the command line is the same ones.

    from pathlib import Path
    from lrt_dist import verbs
    from lrt_dist.config import load_run

    with verbs.open_run(Path("out"), load_run("RUN.yaml")) as run:
        verbs.index(run)
        verbs.extract(run)
        verbs.fit(run)
        verbs.evaluate(run)
        print(verbs.report(run))

Every one can be run again: what is done is found done.
"""

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
