"""Where a model comes from: a hub name, a local folder, or a GGUF file made into a folder once."""

from __future__ import annotations

import hashlib
import json
import os
import re
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
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.experts import active_parameters
from lrt_dist.models.identity import file_digest, tokenizer_digest, weights_digest
from lrt_dist.models.study import anatomy_of
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
        active_parameters: of these, what a token is multiplied by; see `models.experts`.
        embedding_parameters: parameters of the token embedding.
        head_parameters: parameters of the LM head, also where it is tied to the embedding.
        window: tokens that the shortest attention window of the model holds; None without any.
        dtype: dtype of the checkpoint, e.g. `"bfloat16"`.
        digest: hash of the configuration and of the weight files; for a hub name, of the
            configuration and the commit.
        tokenizer: hash of the tokenizer's files; for a hub name, the commit.
        commit: of a hub name what its revision means now; None for a local model.
        context: most tokens of a text; None where the configuration does not say.
        reads_embeddings: whether every stage needs the token embedding; see `Anatomy`.
        remembered: numbers that a block keeps of a token when the model writes: key and value; 0
            where the configuration has no attention heads.
    """

    name: str
    layers: int
    width: int
    vocabulary: int
    block_parameters: tuple[int, ...]
    active_parameters: tuple[int, ...]
    embedding_parameters: int
    head_parameters: int
    window: int | None
    dtype: str
    digest: str
    tokenizer: str
    commit: str | None
    context: int | None
    reads_embeddings: bool
    remembered: int


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


def import_modules(config: ModelConfig) -> None:
    """Import what registers a model's classes, or its tokenizer's.

    Raises:
        UserError: a module cannot be imported.
    """
    for module in config.imports:
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"{config.model}: imports: {error}") from error


def local_tokenizer_digest(config: ModelConfig) -> str | None:
    """Of the tokenizer's files on this machine; None of a model of a hub."""
    source = Path(open_source(config))
    return tokenizer_digest(source, _digests()) if source.is_dir() else None


def load_config(config: ModelConfig) -> Any:
    """The transformers configuration of a model; see `open_source` for what can go wrong."""
    import_modules(config)
    source = open_source(config)
    try:
        return transformers.AutoConfig.from_pretrained(
            source, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the configuration of {config.model}: {error}") from error


def causal_lm(config: ModelConfig) -> tuple[type[transformers.PreTrainedModel], Any]:
    """The causal-LM class that transformers (or, if allowed, the repository) has for a model, and
    its configuration, which is the text part alone where the class wants no more.

    Raises:
        UserError: there is none; see also `open_source`.
    """
    hf_config = load_config(config)
    auto_map = getattr(hf_config, "auto_map", None) or {}
    if config.trust_remote_code and "AutoModelForCausalLM" in auto_map:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        remote: type[transformers.PreTrainedModel] = get_class_from_dynamic_module(
            auto_map["AutoModelForCausalLM"], open_source(config), revision=config.revision
        )
        return remote, hf_config
    mapping = transformers.AutoModelForCausalLM._model_mapping
    if type(hf_config) not in mapping:
        raise UserError(
            f"{config.model} has type {hf_config.model_type!r}, which is no causal language model "
            f"of transformers {transformers.__version__}; if the repository brings its own code, "
            "set trust_remote_code: true"
        )
    chosen: type[transformers.PreTrainedModel] = mapping[type(hf_config)]
    text = hf_config.sub_configs.get("text_config")
    if text is not None and chosen.config_class is text:
        hf_config = hf_config.get_text_config()
    return chosen, hf_config


def describe(config: ModelConfig) -> ModelFacts:
    """Count a model's parts on the meta device, without reading weights.

    Raises:
        UserError: the model cannot be found, or cannot be cut into stages.
    """
    cls, hf_config = causal_lm(config)
    _check_not_quantised(config, hf_config)
    with torch.device("meta"):
        model = cls(hf_config)
    blocks = find_blocks(model)
    embedding = model.get_input_embeddings()
    text = hf_config.get_text_config()
    source = Path(open_source(config))
    commit = None if source.is_dir() else _commit(config)
    head = model.get_output_embeddings()
    return ModelFacts(
        name=config.model,
        layers=len(blocks),
        width=int(text.hidden_size),
        vocabulary=int(embedding.weight.shape[0]),
        block_parameters=tuple(sum(p.numel() for p in block.parameters()) for block in blocks),
        active_parameters=tuple(active_parameters(block, text) for block in blocks),
        embedding_parameters=sum(p.numel() for p in embedding.parameters()),
        head_parameters=sum(p.numel() for p in head.parameters()) if head is not None else 0,
        window=getattr(text, "sliding_window", None),
        dtype=str(getattr(hf_config, "dtype", None) or torch.float32).removeprefix("torch."),
        digest=_digest(hf_config, source, commit),
        tokenizer=local_tokenizer_digest(config) or str(commit),
        commit=commit,
        context=getattr(text, "max_position_embeddings", None),
        reads_embeddings=anatomy_of(cls, hf_config).reads_embeddings,
        remembered=_remembered(text),
    )


def _remembered(text: Any) -> int:
    """Of one block and token, as grouped attention keeps it."""
    heads = getattr(text, "num_attention_heads", None)
    if not heads:
        return 0
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return 2 * int(getattr(text, "num_key_value_heads", None) or heads) * int(size)


def _check_not_quantised(config: ModelConfig, hf_config: Any) -> None:
    quantisation = getattr(hf_config, "quantization_config", None)
    if quantisation:
        facts = quantisation if isinstance(quantisation, dict) else quantisation.to_dict()
        raise UserError(
            f"{config.model} is quantised ({facts.get('quant_method', 'by a method of its own')}); "
            "neither its memory nor its stages are known here: name the checkpoint that it was "
            "made from, or a GGUF file, which is dequantised"
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


def _digest(hf_config: Any, source: Path, commit: str | None) -> str:
    digest = hashlib.sha256()
    volatile = {"_name_or_path", "transformers_version", "_commit_hash"}
    plain = {k: v for k, v in hf_config.to_dict().items() if k not in volatile}
    digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
    digest.update((commit or weights_digest(source, _digests())).encode())
    return digest.hexdigest()[:16]


def _commit(config: ModelConfig) -> str:
    """What the revision of a hub name means now: files of a hub lie in a folder of that name."""
    path = str(
        transformers.utils.cached_file(config.model, "config.json", revision=config.revision)
    )
    found = re.search(r"snapshots[/\\]([0-9a-f]{40})[/\\]", path)
    if found is None:
        raise UserError(
            f"{config.model}: cannot tell which commit {path} belongs to; set revision to a commit"
        )
    return found.group(1)


def _digests() -> Path:
    return cache_folder() / "digests"


def converted_folder(gguf: Path) -> Path:
    """Where the safetensors folder of a GGUF file lies, or would lie."""
    return cache_folder() / "models" / f"{gguf.stem}-{file_digest(gguf, _digests())[:12]}"


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
