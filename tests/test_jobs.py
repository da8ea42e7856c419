"""The recipes and the cluster files: that they are what the package accepts, and would fit."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml

from lrt_dist.atlasfile import load_atlas
from lrt_dist.config import ModelConfig
from lrt_dist.corpus.splits import check_files
from lrt_dist.errors import UserError
from lrt_dist.models.sources import describe
from lrt_dist.plan.cost import solve_bytes
from lrt_dist.plan.memory import USABLE, ModelSize, fewest_stages, host_bytes
from lrt_dist.plan.tiles import plan_tiles
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import ChainSpec, StageSpec
from lrt_dist.runtime.replica import credits
from lrt_dist.sites import LayerPair, Sided
from lrt_dist.workspace.run import check_names

ROOT = Path(__file__).parents[1]
ATLASES = sorted((ROOT / "jobs").glob("*atlas.yaml"))
RECIPES = sorted(set((ROOT / "jobs").glob("*.yaml")) - set(ATLASES))
WORKDIR = "/opt/lrt-dist"
"""Where the image keeps what of the checkout it has."""

A100 = 80 * 10**9
"""Bytes of the smallest device that is sold as 80 GB."""
BFLOAT16 = 2
_STAGE = StageSpec(lambda: pytest.fail("nothing is built here"), cpus=1, gpus=1)


def is_task(file: str) -> bool:
    """Whether a user puts it beside the recipe: the papers' tasks are not ours to give."""
    return Path(file).is_relative_to(ROOT / "jobs" / "tasks")


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _width(name: str) -> int:
    """Widths of the models in the recipes, from their public configurations."""
    return {
        "EleutherAI/pythia-160m": 768,
        "EleutherAI/pythia-410m": 1024,
        "google/gemma-2-2b": 2304,
        "google/gemma-2-2b-it": 2304,
        "google/gemma-2-9b": 3584,
        "google/gemma-2-9b-it": 3584,
        "Qwen/Qwen2-0.5B": 896,
        "Qwen/Qwen2-7B": 3584,
        "Qwen/Qwen2-0.5B-Instruct": 896,
        "Qwen/Qwen2-7B-Instruct": 3584,
        "meta-llama/Llama-2-7b-chat-hf": 4096,
        "meta-llama/Meta-Llama-3-8B": 4096,
        "meta-llama/Meta-Llama-3-70B": 8192,
        "meta-llama/Llama-3.1-70B": 8192,
        "meta-llama/Llama-3.1-405B": 16384,
    }[name]


def _llama(blocks: int, d: int, ffn: int) -> ModelSize:
    """A large Llama-3 by hand: heads of 128, 8 of them for keys."""
    keys, vocabulary = 8 * 128, 128256
    attention = 2 * d * d + 2 * d * keys
    block = attention + 3 * d * ffn + 2 * d
    return ModelSize([block] * blocks, vocabulary * d, vocabulary * d, d)


def _llama_70b() -> ModelSize:
    return _llama(80, 8192, 28672)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_a_valid_run(path: Path) -> None:
    run = load_run(path)
    assert run.cluster.address == "auto", "a recipe runs on the cluster that it is submitted to"
    assert run.concepts
    for concept in run.concepts:
        given = (concept.data, concept.items, concept.prompts)
        files = [file for data in given if data for file in data.files]
        assert all(Path(file).is_file() or is_task(file) for file in files)
    # Only the text, and the papers' tasks, are for the user to bring.
    patterns = [pattern for part in run.corpus.parts for pattern in part.paths]
    assert patterns
    assert all(pattern.startswith("/shared/") for pattern in patterns)
    check_names(run)


@pytest.mark.parametrize("path", ATLASES, ids=lambda path: path.stem)
def test_atlas_is_a_valid_atlas(path: Path) -> None:
    atlas = load_atlas(path)
    assert len(atlas.runs) > 2
    for run in atlas.runs.values():
        assert run.cluster.address == "auto"
        files = [file for concept in run.concepts for file in concept.data.files]
        assert all(Path(file).is_file() for file in files)
        assert all(pattern.startswith("/shared/") for pattern in run.corpus.paths)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_tasks_of_a_recipes_fit_have_room_on_a_node(path: Path) -> None:
    run = load_run(path)
    widths = Sided(_width(run.source.model), _width(run.target.model))
    assert run.source.layers != "all"
    assert run.target.layers != "all", "a recipe names its layers: moments grow with their product"
    pairs = [LayerPair(s, t) for s in run.source.layers for t in run.target.layers]
    tiles = plan_tiles(pairs, widths, run.fit.folds, int(run.fit.tile_bytes))
    assert max(tile.bytes(widths, run.fit.folds) for tile in tiles) < 16 * 2**30
    assert (
        solve_bytes(widths.source, widths.target, run.fit.folds, run.fit.mismatched_draws)
        < 48 * 2**30
    )  # nodes of rayjob.yaml have 96 GiB
    # On disk; or on the GPUs of ten nodes, 8 GiB each.
    most = 100 * 2**30 if run.extract.store == "zarr" else 640 * 2**30
    assert sum(tile.bytes(widths, run.fit.folds) for tile in tiles) < most


def test_the_lrt_recipe_is_the_papers_setting() -> None:
    run = load_run(ROOT / "jobs" / "gemma-2-2b-to-9b.yaml")
    assert (run.source.model, run.source.layers) == ("google/gemma-2-2b", (20,))
    assert (run.target.model, run.target.layers) == ("google/gemma-2-9b", (20,))
    assert run.fit.method == "affine"
    assert run.sites.mode == "tokens"
    assert run.sites.per_segment >= run.corpus.max_tokens, "all tokens, not a sample"


def test_the_lcross_recipe_is_the_papers_map() -> None:
    run = load_run(ROOT / "jobs" / "lcross-last-token.yaml")
    assert run.sites.mode == "last"
    assert run.fit.method == "linear"
    assert run.fit.shrink_norm_above is None
    assert not run.fit.allow_fit_on_concepts


def test_the_dimensions_of_llama_70b_are_those_of_the_real_class(tmp_path: Path) -> None:
    transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        dtype="bfloat16",
    ).save_pretrained(tmp_path)
    facts, size = describe(ModelConfig(model=str(tmp_path))), _llama_70b()
    assert list(facts.block_parameters) == list(size.blocks)
    assert facts.embedding_parameters == size.embedding
    assert facts.head_parameters == size.head
    assert facts.dtype == "bfloat16"


def test_the_70b_recipe_fits_gpus_of_80_gb() -> None:
    run = load_run(ROOT / "jobs" / "llama-3-8b-to-70b.yaml")
    assert run.target.layers != "all"
    last = max(run.target.layers)
    size = _llama_70b()
    extraction, evaluation = (
        fewest_stages(
            size,
            device_bytes=A100,
            last_layer=last_layer,
            head=head,
            number_bytes=BFLOAT16,
            batch_tokens=batch_tokens,
        )
        for last_layer, head, batch_tokens in (
            (last, False, run.extract.batch_tokens),
            (79, True, run.evaluate.batch_tokens),
        )
    )
    assert extraction is not None
    assert evaluation is not None
    assert [stage.owned for stage in extraction] == [range(25), range(25, 51)]
    assert [len(stage.owned) for stage in evaluation] == [26, 28, 26]
    for stages in (extraction, evaluation):
        assert all(stage.bytes <= USABLE * A100 for stage in stages)
    # What the plan adds up to is the model: 70.6 billion parameters, none twice.
    weights = sum(stage.weight_bytes for stage in evaluation)
    assert weights == BFLOAT16 * (sum(size.blocks) + size.embedding + size.head)
    assert 140e9 < weights < 142e9


def test_the_405b_recipe_fits_nodes_of_eight_gpus_of_80_gb() -> None:
    run = load_run(ROOT / "jobs" / "llama-3-70b-to-405b.yaml")
    assert run.source.layers != "all"
    assert run.target.layers != "all"
    source, target = _llama_70b(), _llama(126, 16384, 53248)
    counts = []
    for size, last, head in (
        (source, max(run.source.layers), False),
        (target, max(run.target.layers), False),
        (target, 125, True),
    ):
        stages = fewest_stages(
            size,
            device_bytes=A100,
            last_layer=last,
            head=head,
            number_bytes=BFLOAT16,
            batch_tokens=(run.evaluate if head else run.extract).batch_tokens,
        )
        assert stages is not None
        assert all(stage.bytes <= USABLE * A100 for stage in stages)
        counts.append(len(stages))
    weights = BFLOAT16 * (sum(target.blocks) + target.embedding + target.head)
    assert 811e9 < weights < 813e9  # 405.9 billion parameters
    assert counts == [2, 8, 13]


def test_the_papers_tasks_that_are_missing_are_named_at_once() -> None:
    run = load_run(ROOT / "jobs" / "lrt-table1.yaml")
    assert len(run.concepts) == 13
    with pytest.raises(UserError, match="at 13 of the paths") as raised:
        check_files(run.concepts)
    assert all(f"{concept.name}: " in str(raised.value) for concept in run.concepts)


def test_one_gpu_of_80_gb_is_not_enough_for_70b() -> None:
    size = _llama_70b()
    stages = fewest_stages(
        size, device_bytes=A100, last_layer=50, head=False, number_bytes=2, batch_tokens=1
    )
    assert stages is not None
    assert len(stages) > 1


def test_kuberay_runs_a_recipe_that_the_image_has() -> None:
    job = _yaml(ROOT / "cluster" / "rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, command, run_file, *options = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("lrt-dist", "run")
    recipe = ROOT / Path(run_file).relative_to(WORKDIR)
    assert recipe in RECIPES
    run = load_run(recipe)
    assert run.extract.store_url is None, "it would lie outside of OUT"

    copied = (ROOT / "cluster" / "Dockerfile").read_text()
    assert f"WORKDIR {WORKDIR}" in copied
    for folder in ("jobs", "lrt_dist"):  # recipes reach the demo's concepts through `..`
        assert f"COPY {folder} ./{folder}" in copied

    cluster = job["spec"]["rayClusterSpec"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert options[options.index("--out") + 1].startswith("s3://")
    mounts = pod["containers"][0]["volumeMounts"]
    assert all(path.startswith(mounts[0]["mountPath"]) for path in run.corpus.paths)
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]


def test_what_kuberays_nodes_have_is_what_the_plan_asks_for() -> None:
    """Of the recipe's target: whole chains on the GPUs, and host memory for all stages."""
    job = _yaml(ROOT / "cluster" / "rayjob.yaml")
    run = load_run(ROOT / "jobs" / "llama-3-8b-to-70b.yaml")
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    has = workers["template"]["spec"]["containers"][0]["resources"]["requests"]
    gpus, memory = int(has["nvidia.com/gpu"]), int(has["memory"].removesuffix("Gi")) << 30
    assert run.target.layers != "all"
    plan = fewest_stages(
        _llama_70b(),
        device_bytes=A100,
        last_layer=max(run.target.layers),
        head=False,
        number_bytes=BFLOAT16,
        batch_tokens=run.extract.batch_tokens,
    )
    assert plan is not None
    assert gpus * workers["replicas"] % len(plan) == 0, "no GPU is left over"
    carry = run.extract.batch_tokens * 8192 * BFLOAT16
    needed = [
        host_bytes(
            sum(layer in stage.owned for layer in run.target.layers),
            run.extract.rows_per_unit,
            8192,
            BFLOAT16,
            carry,
        )
        for stage in plan
    ]
    # Ray offers 70 % of a node's memory, and keeps up to 30 % for its object store.
    assert gpus * max(needed) < 0.7 * memory
    assert credits(ChainSpec((_STAGE,) * len(plan), gpus, carry_bytes=carry), 0.3 * memory) == 5
    assert int(has["cpu"]) >= gpus


def test_rays_launcher_accepts_the_aws_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = _yaml(ROOT / "cluster" / "aws.yaml")
    validate_config(prepare_config(config))
    gpus = config["available_node_types"]["gpu"]
    assert gpus["min_workers"] == gpus["max_workers"] == config["max_workers"]


def test_every_recipe_is_in_the_readme() -> None:
    text = (ROOT / "jobs" / "README.md").read_text()
    assert all(f"({path.name})" in text for path in (*RECIPES, *ATLASES))


def test_the_slurm_script_parses() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "cluster" / "slurm.sbatch")], check=True)
