"""Where a model comes from: a hub name, a local folder, or a GGUF file made into a folder once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers

from lrt_dist.config import ModelConfig
from lrt_dist.errors import UserError
from lrt_dist.sites import Side

CACHE_VARIABLE = "LRT_DIST_CACHE"


@dataclass(frozen=True)
class ModelFacts:
    """What a model is, known without reading a weight.

    Attributes:
        name: the model as the run names it.
        layers: number of decoder blocks L.
        width: size d of the residual stream.
        vocabulary: number of token embeddings.
        block_parameters: parameters of each of the L blocks.
        embedding_parameters: parameters of the token embedding.
        head_parameters: parameters of the LM head, also where it is tied to the embedding.
        window: tokens that the shortest attention window of the model holds; None without any.
        dtype: dtype of the checkpoint, e.g. `"bfloat16"`.
        digest: hash of the configuration and of the weight files' names, sizes and beginnings;
            for a hub name, of the configuration and the commit.
        context: most tokens of a text; None where the configuration does not say.
    """

    name: str
    layers: int
    width: int
    vocabulary: int
    block_parameters: tuple[int, ...]
    embedding_parameters: int
    head_parameters: int
    window: int | None
    dtype: str
    digest: str
    context: int | None


def cache_folder() -> Path:
    """Where converted models are kept: `$LRT_DIST_CACHE` or `~/.cache/lrt_dist`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "lrt_dist")


def open_source(config: ModelConfig) -> str:
    """What `from_pretrained` is given: a hub name or an absolute folder.

    A GGUF file is dequantised into a safetensors folder of the cache, once per machine.

    Raises:
        UserError: a local path that holds no model.
    """
    path = Path(config.model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"no GGUF file at {path}")
        return str(_converted(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is not a model folder: it has no config.json")
        return str(path.resolve())
    if path.is_absolute() or config.model.count("/") > 1:
        raise UserError(
            f"no model at {config.model}: not a folder, not a .gguf file, not a hub name"
        )
    return config.model


def load_config(config: ModelConfig) -> Any:
    """The transformers configuration of a model; see `open_source` for what can go wrong."""
    for module in config.imports:
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"{config.model}: imports: {error}") from error
    source = open_source(config)
    try:
        return transformers.AutoConfig.from_pretrained(
            source, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the configuration of {config.model}: {error}") from error


def model_class(config: ModelConfig, hf_config: Any) -> type[transformers.PreTrainedModel]:
    """The causal-LM class that transformers (or, if allowed, the repository) has for a model."""
    auto_map = getattr(hf_config, "auto_map", None) or {}
    if config.trust_remote_code and "AutoModelForCausalLM" in auto_map:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        remote: type[transformers.PreTrainedModel] = get_class_from_dynamic_module(
            auto_map["AutoModelForCausalLM"], open_source(config), revision=config.revision
        )
        return remote
    mapping = transformers.AutoModelForCausalLM._model_mapping
    if type(hf_config) not in mapping:
        raise UserError(
            f"{config.model} has type {hf_config.model_type!r}, which is no causal language model "
            f"of transformers {transformers.__version__}; if the repository brings its own code, "
            "set trust_remote_code: true"
        )
    chosen: type[transformers.PreTrainedModel] = mapping[type(hf_config)]
    return chosen


def describe(config: ModelConfig) -> ModelFacts:
    """Count a model's parts on the meta device, without reading weights."""
    from lrt_dist.models.blocks import find_blocks

    hf_config = load_config(config)
    with torch.device("meta"):
        model = model_class(config, hf_config)(hf_config)
    blocks = find_blocks(model)
    embedding = model.get_input_embeddings()
    text = hf_config.get_text_config()
    head = model.get_output_embeddings()
    return ModelFacts(
        name=config.model,
        layers=len(blocks),
        width=int(text.hidden_size),
        vocabulary=int(embedding.weight.shape[0]),
        block_parameters=tuple(sum(p.numel() for p in block.parameters()) for block in blocks),
        embedding_parameters=sum(p.numel() for p in embedding.parameters()),
        head_parameters=sum(p.numel() for p in head.parameters()) if head is not None else 0,
        window=getattr(text, "sliding_window", None),
        dtype=str(getattr(hf_config, "dtype", None) or torch.float32).removeprefix("torch."),
        digest=_digest(config, hf_config),
        context=getattr(text, "max_position_embeddings", None),
    )


def check_layers(side: Side, config: ModelConfig, facts: ModelFacts) -> tuple[int, ...]:
    """The wanted layers as numbers.

    Raises:
        UserError: a layer that the model does not have.
    """
    if config.layers == "all":
        return tuple(range(facts.layers))
    beyond = [layer for layer in config.layers if layer >= facts.layers]
    if beyond:
        raise UserError(
            f"{side}.layers: {beyond[0]} is out of range; {config.model} has {facts.layers} "
            f"layers, 0 … {facts.layers - 1}"
        )
    return tuple(config.layers)


def _digest(config: ModelConfig, hf_config: Any) -> str:
    digest = hashlib.sha256()
    volatile = {"_name_or_path", "transformers_version", "_commit_hash"}
    plain = {k: v for k, v in hf_config.to_dict().items() if k not in volatile}
    digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
    source = Path(open_source(config))
    if source.is_dir():
        weights = sorted(p for p in source.iterdir() if p.suffix in (".safetensors", ".bin"))
        for file in weights:
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 20))
    else:
        digest.update(str(getattr(hf_config, "_commit_hash", None)).encode())
    return digest.hexdigest()[:16]


def converted_folder(gguf: Path) -> Path:
    """Where the safetensors folder of a GGUF file lies, or would lie."""
    with gguf.open("rb") as stream:
        beginning = stream.read(1 << 20)
    digest = hashlib.sha256(f"{gguf.name} {gguf.stat().st_size}".encode() + beginning)
    return cache_folder() / "models" / f"{gguf.stem}-{digest.hexdigest()[:12]}"


def _converted(gguf: Path) -> Path:
    """Dequantise a GGUF file into `cache/models/…`; safe against a second process and `kill`."""
    try:
        import gguf as _reader  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{gguf.name} needs the GGUF reader: pip install 'lrt-dist[gguf]'"
        ) from error
    folder = converted_folder(gguf)
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{gguf.stem}-", dir=folder.parent))
    try:
        quiet()
        # The reader and the writer draw bars of their own, whatever they are told.
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                quantization_config=transformers.GgufConfig(dequantize=True),
                dtype=torch.float32,
            )
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process was first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def quiet() -> None:
    """Keep transformers' bars and warnings out of logs and off the terminal."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
