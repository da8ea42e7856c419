"""Two tiny models, a corpus and a concept: everything a run needs, in seconds."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import byte_level_tokenizer, metaspace_tokenizer, save_model
from tiny_run import command_line, write_tiny_run
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lrt_dist.runtime.contract import Runtime

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread for torch, here and in the processes that tests start, as a Ray worker of one core
    has: at the sizes of tests, several mostly wait for each other, and for whoever else has a core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 4 blocks, width 32, byte-level tokenizer."""
    tokenizer = byte_level_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    return save_model(tmp_path_factory.mktemp("models") / "tiny-llama", config, tokenizer)


@pytest.fixture(scope="session")
def tiny_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma-3 of 3 blocks, width 24, metaspace tokenizer with <bos>."""
    tokenizer = metaspace_tokenizer()
    config = transformers.Gemma3TextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
        max_position_embeddings=256,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=0,
    )
    return save_model(tmp_path_factory.mktemp("models") / "tiny-gemma", config, tokenizer, seed=1)


@pytest.fixture(scope="session")
def tiny_third(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of 2 blocks, width 20. Its tokens are characters, so the beginning of a text is all
    that it reads."""
    known = byte_level_tokenizer().get_vocab()
    tokenizer = Tokenizer(models.BPE(vocab=known, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = transformers.GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_embd=20,
        n_layer=2,
        n_head=2,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    return save_model(tmp_path_factory.mktemp("models") / "tiny-gpt2", config, tokenizer, seed=2)


@pytest.fixture
def write_run(tmp_path: Path, tiny_source: Path, tiny_target: Path) -> Callable[..., Path]:
    """Writes a small, complete RUN.yaml; keyword arguments replace whole sections."""
    return functools.partial(write_tiny_run, tmp_path, tiny_source, tiny_target)


@pytest.fixture
def lrt_dist(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`lrt-dist ARGUMENTS` without the seconds that a new process takes to import torch.

    Returns the exit code and all that was printed, stdout first. `test_cli` holds it against the
    real script. A terminal may break lines anywhere between words, so blanks are made one.
    """

    def call(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()  # what others printed
        code = command_line(*arguments)
        printed = capfd.readouterr()
        return code, " ".join((printed.out + printed.err).split())

    return call


@pytest.fixture(scope="session")
def ray_runtime() -> Iterator[Runtime]:
    """Ray, really started, on two cores; a process has as many threads as it asks for cores."""
    import ray

    from lrt_dist.runtime.pool import RayRuntime

    with pytest.MonkeyPatch.context() as environment:
        # Workers must find the scripted stages, which lie beside the tests.
        folders = [str(Path(__file__).parent / name) for name in ("runtime", "faults", "outside")]
        environment.setenv("PYTHONPATH", os.pathsep.join(folders), prepend=os.pathsep)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # Ray leaves these as they are
            environment.delenv(name, raising=False)
        ray.init(
            "local",  # not one that happens to run on this machine
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    yield RayRuntime()
    ray.shutdown()
