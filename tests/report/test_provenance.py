"""Where results come from, on the page of a run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy
import torch

from lrt_dist import api
from lrt_dist.runfile import load_run


def test_the_page_says_what_the_results_were_made_from(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    """Of a whole run; without concepts, its page shows no evaluation and no concept's data."""
    run_file = write_run()
    config = load_run(run_file)
    with api.open_run(tmp_path / "out", config) as run:
        api.run_steps(run)
        digests = [run.facts.source.digest, run.facts.target.digest]
        page = run.folder.report.read_text("utf-8")
        evaluation = run.folder.verdicts.read_bytes()
    rows = provenance_of(page)
    concept = hashlib.sha256(Path(config.concepts[0].data.files[0]).read_bytes()).hexdigest()
    assert rows["Command"] == "from Python"
    assert f"torch {torch.__version__}" in rows["Libraries here"]
    assert f"numpy {numpy.__version__}" in rows["Libraries here"]
    for side, digest in zip(("Source", "Target"), digests, strict=True):
        assert digest in rows[f"{side} weights"]
        assert "computed in float32" in rows[f"{side} states"]
    assert "sites 0, evaluation 0" in rows["Seeds"]
    assert concept in rows["Data of mood"]
    assert re.fullmatch("fingerprint [0-9a-f]{16}", rows["Evaluation"])
    for name in ("report.csv", "report.tex"):
        assert (tmp_path / "out" / name).is_file()

    with api.open_run(tmp_path / "out", load_run(run_file, ["concepts=[]"])) as run:
        page = api.report(run).read_text("utf-8")
        assert run.folder.verdicts.read_bytes() == evaluation
    assert "Transfer was not tested" in page
    assert {"Evaluation", "Data of mood"} & provenance_of(page).keys() == set()


def provenance_of(page: str) -> dict[str, str]:
    """The rows of the section, by name."""
    section = page[page.index("Where it comes from") :]
    section = section[: section.index("</dl>")]
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section))
