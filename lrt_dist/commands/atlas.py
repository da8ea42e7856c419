"""The command `atlas`: runs between many models, with one extraction for each model, and one page.

OUT/runs/{source}-to-{target}/   an ordinary run
OUT/activations/                 one store for each model, for all runs
OUT/atlas.parquet  OUT/atlas.html
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lrt_dist.atlasfile import Atlas
from lrt_dist.commands.evaluate import evaluate
from lrt_dist.commands.extract import extract, quarantined_units
from lrt_dist.commands.fit import fit
from lrt_dist.commands.index import index
from lrt_dist.commands.report import report
from lrt_dist.config import DetourConfig, RunConfig, fingerprint_of
from lrt_dist.errors import IncompleteError, UserError
from lrt_dist.files import atomic_write, is_file, place
from lrt_dist.report.atlas import write_atlas
from lrt_dist.report.results import Results
from lrt_dist.report.summary import word_of
from lrt_dist.significance import holm
from lrt_dist.sites import Side, Sided
from lrt_dist.store.tables import AtlasRow, Table, VerdictRow
from lrt_dist.workspace.run import open_run

_FIRST = "first.json"
"""Names the pair whose run made the rows, so that models may be added anywhere in the file."""


@dataclass(frozen=True)
class _Finished:
    """A run that is done.

    Attributes:
        pair: names of its models.
        out: its directory, below that of the atlas.
        blocks: number of each model's blocks.
        verdicts: of every concept.
    """

    pair: tuple[str, str]
    out: str
    blocks: Sided[int]
    verdicts: tuple[VerdictRow, ...]


def atlas(wanted: Atlas, out: str | Path) -> Table[AtlasRow]:
    """Do every run that is missing, and write the table and the page.

    Rows are those of the first run. A model that has no token at the end of a row leaves the row
    out of its fits, so a model may join later: its own extraction is all that it needs.

    Returns:
        One row for each pair of models and concept.

    Raises:
        UserError: the input is wrong; nothing was computed.
        IncompleteError: some runs stopped early, or have quarantined units; the page shows the
            others.
    """
    root = place(out).resolve()
    runs = _with_one_extraction(wanted, root)
    _check(runs, root)
    finished, unfinished = [], {}
    fitted: dict[tuple[str, str], RunConfig] = {}
    for pair, config in runs.items():
        try:
            _fit(pair, config, root)
            fitted[pair] = config
        except IncompleteError as error:
            unfinished[" to ".join(pair)] = str(error)
    for pair, config in fitted.items():
        try:
            finished.append(_finish(pair, _with_detours(pair, config, fitted, root), root))
        except IncompleteError as error:
            unfinished[" to ".join(pair)] = str(error)
    table = Table.of(AtlasRow, _rows(finished))
    table.save(root / "atlas.parquet", fingerprint_of({"runs": [f.out for f in finished]}))
    write_atlas(root / "atlas.html", wanted.name, wanted.models, tuple(runs), table)
    if unfinished:
        listed = "\n  ".join(f"{pair}: {reason}" for pair, reason in unfinished.items())
        raise IncompleteError(
            f"{len(unfinished)} of {len(runs)} runs are not complete:\n  {listed}\n"
            "run the same command again to go on"
        )
    return table


def _with_one_extraction(wanted: Atlas, root: Path) -> dict[tuple[str, str], RunConfig]:
    """The runs, the first one first: it makes the rows and the stores that the others take."""
    first = _first(wanted, root)
    shared = str(root / "activations")
    runs = {}
    for pair in sorted(wanted.runs, key=lambda pair: pair != first):  # stable: order is kept
        config = wanted.runs[pair]
        if config.extract.store == "none":
            raise UserError(
                "an atlas extracts each model once, for all of its runs, so it needs their stores: "
                "leave extract.store at zarr"
            )
        extract = config.extract.model_copy(
            update={"store_url": config.extract.store_url or shared}
        )
        rows_of = None if pair == first else str(_out_of(first, root))
        sites = config.sites.model_copy(update={"rows_of": rows_of})
        runs[pair] = config.model_copy(update={"extract": extract, "sites": sites})
    return runs


def _first(wanted: Atlas, root: Path) -> tuple[str, str]:
    """The pair whose run makes the rows: that of an earlier call, if there was one.

    Raises:
        UserError: it is no longer wanted, or the directory holds something else.
    """
    path = root / _FIRST
    if is_file(path):
        source, target = json.loads(path.read_text("utf-8"))
        if (source, target) not in wanted.runs:
            raise UserError(
                f"the rows of {root} are those of the run from {source} to {target}, which the "
                "file no longer has; put it back, or use another --out"
            )
        return source, target
    if is_file(root / "run.yaml"):
        raise UserError(f"{root} holds a run, not an atlas; use another --out")
    first = next(iter(wanted.runs))
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(first), "utf-8")
    return first


def _out_of(pair: tuple[str, str], root: Path) -> Path:
    return root / "runs" / "-to-".join(pair)


def _check(runs: Mapping[tuple[str, str], RunConfig], root: Path) -> None:
    """Find what is wrong with any of them before one of them computes; indexes are made on the way,
    since concept texts are looked for in them.

    Raises:
        UserError: see `commands.index.index`; two pairs have one name.
    """
    outs = [_out_of(pair, root) for pair in runs]
    twice = sorted({out.name for out in outs if outs.count(out) > 1})
    if twice:
        raise UserError(f"two pairs of models are called {twice[0]}; rename a model")
    for pair, config in runs.items():
        with open_run(_out_of(pair, root), config) as live:
            index(live)


def _fit(pair: tuple[str, str], config: RunConfig, root: Path) -> None:
    with open_run(_out_of(pair, root), config) as live:
        extract(live)
        fit(live)


def _with_detours(
    pair: tuple[str, str],
    config: RunConfig,
    fitted: Collection[tuple[str, str]],
    root: Path,
) -> RunConfig:
    """A run with the ways by every third model to which, and from which, there are maps."""
    source, target = pair
    thirds = [end for begin, end in fitted if begin == source and (end, target) in fitted]
    named = [
        DetourConfig(
            first=str(_out_of((source, third), root)), then=str(_out_of((third, target), root))
        )
        for third in thirds
    ]
    evaluate = config.evaluate.model_copy(update={"detours": tuple(named)})
    return config.model_copy(update={"evaluate": evaluate})


def _finish(pair: tuple[str, str], config: RunConfig, root: Path) -> _Finished:
    out = _out_of(pair, root)
    with open_run(out, config) as live:
        evaluate(live)
        report(live)
        quarantined = quarantined_units(live)
        blocks = Sided.of(lambda side: live.facts[side].layers)
    if quarantined:
        raise IncompleteError(f"{len(quarantined)} units are quarantined")
    verdicts = tuple(Results.read(out).verdicts)
    return _Finished(pair, str(out.relative_to(root)), blocks, verdicts)


def _rows(finished: list[_Finished]) -> list[AtlasRow]:
    """One row for each verdict; p-values are adjusted over all of them."""
    found = [(run, verdict) for run in finished for verdict in run.verdicts]
    adjusted = holm([_largest_p(verdict) for _, verdict in found])
    rows = []
    for (run, verdict), p in zip(found, adjusted, strict=True):
        source, target = run.pair
        judged = replace(verdict, p_adjusted=p)
        rows.append(
            AtlasRow(
                source=source,
                target=target,
                source_depth=(verdict.source_layer + 1) / run.blocks[Side.SOURCE],
                target_depth=(verdict.target_layer + 1) / run.blocks[Side.TARGET],
                word=word_of(judged),
                run=run.out,
                **vars(judged),
            )
        )
    return rows


def _largest_p(row: VerdictRow) -> float:
    """Of one concept, not adjusted: all four drawn controls must be ruled out."""
    return max(row.p_permuted, row.p_random_source, row.p_covariance, row.p_random)
