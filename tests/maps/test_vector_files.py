"""Vector files of other tools: what they write, we read; what we write, they read and apply alike.

repeng and steering-vectors are the real packages.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import steering_vectors
import torch
import transformers
from safetensors.torch import save_file

from lrt_dist.errors import CorruptionError, LrtError, UserError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.vector_files import ENDINGS, read_vector, write_vectors
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.models.steer import steer

WIDTH = 16
REPENG = f"""
import numpy
numpy.float_ = numpy.float64  # repeng 0.4.0 names it, NumPy 2 has lost it
import sys, torch, transformers
from repeng import ControlModel, ControlVector

folder = sys.argv[1]
model = transformers.AutoModelForCausalLM.from_pretrained(folder + "/model").eval()
control = ControlVector.import_gguf(folder + "/ours.gguf")
assert control.model_type == "a/small" and list(control.directions) == [2]
model = ControlModel(model, [2])
model.set_control(control)
with torch.inference_mode():
    logits = model(torch.arange(1, 13).unsqueeze(0)).logits
torch.save(logits, folder + "/logits.pt")

directions = {{layer: numpy.arange({WIDTH}, dtype=numpy.float32) + layer for layer in (1, 2, 3)}}
ControlVector("llama", directions).export_gguf(folder + "/theirs.gguf")
"""


def vector(layer: int = 2, **changes: Any) -> SteeringVector:
    values = torch.randn(WIDTH, generator=torch.Generator().manual_seed(layer))
    known: dict[str, Any] = {"method": "pca", "pairs": 12, "norm": 3.5} | changes
    return SteeringVector("mood", "a/small", layer, values, **known)


def small_model() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
    )
    return transformers.LlamaForCausalLM(config).eval()


def logits(model: transformers.PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(1, 13).unsqueeze(0)).logits
    return found


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_again(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"kind-of{ending}"
    write_vectors([vector()], path)
    again = read_vector(path, model="a/small", layer=2)
    assert torch.equal(again.values, vector().values)
    assert (again.model, again.layer, again.concept, again.norm) == ("a/small", 2, "kind-of", None)


@pytest.mark.parametrize("ending", [".gguf", ".pt", ".safetensors"])
def test_a_file_of_several_layers_is_asked_for_one(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"all{ending}"
    write_vectors([vector(1), vector(3)], path)
    assert torch.equal(read_vector(path, model="m", layer=3).values, vector(3).values)
    with pytest.raises(UserError, match="has vectors of layers 1, 3; name one of them"):
        read_vector(path, model="m")
    with pytest.raises(UserError, match="has vectors of layers 1, 3; none of 2"):
        read_vector(path, model="m", layer=2)


def test_a_file_of_ours_says_itself_what_it_is(tmp_path: Path) -> None:
    vector().save(tmp_path / "v.safetensors")
    again = read_vector(tmp_path / "v.safetensors", model="another", layer=7, concept="x")
    assert (again.model, again.layer, again.concept, again.norm) == ("a/small", 2, "mood", 3.5)


def test_a_strength_is_written_as_what_it_adds(tmp_path: Path) -> None:
    write_vectors([vector()], tmp_path / "v.npy", strength=-0.2)
    assert np.array_equal(np.load(tmp_path / "v.npy"), vector().displacement(-0.2).numpy())


# --- other tools ----------------------------------------------------------------------------------


def test_steering_vectors_reads_ours_and_adds_the_same(tmp_path: Path) -> None:
    """Both add in float32, ours as (B, T, D) + D: equal bits."""
    write_vectors([vector()], tmp_path / "v.pt", strength=0.3)
    model = small_model()
    theirs = steering_vectors.SteeringVector(torch.load(tmp_path / "v.pt", weights_only=True))
    with theirs.apply(model):
        expected = logits(model)
    with steer(model, vector(), 0.3):
        assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(model), expected)


def test_what_people_save_of_steering_vectors_is_read(tmp_path: Path) -> None:
    theirs = steering_vectors.SteeringVector({2: vector().values, 3: vector(3).values})
    torch.save(theirs, tmp_path / "theirs.pt")
    again = read_vector(tmp_path / "theirs.pt", model="a/small", layer=3, concept="mood")
    assert torch.equal(again.values, vector(3).values)


def test_a_mean_difference_is_that_of_steering_vectors() -> None:
    from steering_vectors.aggregators import mean_aggregator

    from lrt_dist.maps.vectors import make_vector

    positive, negative = torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(0))
    ours = make_vector("mean_difference", positive, negative)
    assert torch.allclose(ours.float(), mean_aggregator()(positive, negative), atol=1e-6)


@pytest.fixture(scope="module")
def of_repeng(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What repeng leaves, which needs seconds to be imported in a process of its own: `logits.pt`
    of our vector at strength 0.3, and `theirs.gguf`."""
    folder = tmp_path_factory.mktemp("repeng")
    write_vectors([vector()], folder / "ours.gguf", strength=0.3)
    small_model().save_pretrained(folder / "model")
    done = subprocess.run(
        [sys.executable, "-c", REPENG, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_repeng_reads_ours_and_adds_the_same(of_repeng: Path) -> None:
    """As `steering_vectors`: equal bits."""
    model = small_model()
    with steer(model, vector(), 0.3):
        assert torch.equal(logits(model), torch.load(of_repeng / "logits.pt", weights_only=True))


def test_what_repeng_exports_is_read(of_repeng: Path) -> None:
    again = read_vector(of_repeng / "theirs.gguf", model="a/small", layer=3)
    assert again.values.tolist() == [float(n + 3) for n in range(WIDTH)]


# --- bad files ------------------------------------------------------------------------------------


def _gguf_of(path: Path, architecture: str, names: dict[str, Any]) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in names.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never be printed",)


@dataclass
class Bad:
    ending: str
    write: Callable[[Path], object]
    error: type[LrtError]
    message: str


ONE = np.ones(WIDTH, dtype=np.float32)
TENSOR = torch.ones(WIDTH)
BAD = {
    "another GGUF": Bad(
        ".gguf",
        lambda p: _gguf_of(p, "llama", {"blk.0.attn_q.weight": ONE}),
        UserError,
        "is a GGUF file of 'llama', not a control vector",
    ),
    "no direction": Bad(
        ".gguf",
        lambda p: _gguf_of(p, "controlvector", {"other": ONE}),
        UserError,
        "no tensor is a direction.N of a layer N",
    ),
    "no GGUF": Bad(".gguf", lambda p: p.write_bytes(b"x" * 99), CorruptionError, "read as GGUF"),
    "code": Bad(
        ".pt", lambda p: torch.save(Evil(), p), UserError, "not loaded, as that could run code"
    ),
    "no torch file": Bad(".pt", lambda p: p.write_bytes(b""), CorruptionError, "by torch"),
    "text": Bad(".pt", lambda p: torch.save({"a": "b"}, p), UserError, "holds str, no tensor"),
    "names": Bad(
        ".pt",
        lambda p: torch.save({"a": TENSOR, "b": TENSOR}, p),
        UserError,
        "not clear which layer 'a' belongs to",
    ),
    "a matrix": Bad(
        ".npy",
        lambda p: np.save(p, np.ones((4, WIDTH))),
        UserError,
        r"holds \[4, 16\] of torch.float64 where a vector",
    ),
    "whole numbers": Bad(
        ".npy", lambda p: np.save(p, np.arange(4)), UserError, "where a vector .* floating numbers"
    ),
    "pickled": Bad(
        ".npy",
        lambda p: np.save(p, np.array([Evil()], dtype=object), allow_pickle=True),
        UserError,
        "not a NumPy file of numbers",
    ),
    "a map": Bad(
        ".safetensors",
        lambda p: AffineMap(torch.eye(3), torch.zeros(3), ("a", 1), ("b", 2)).save(p),
        UserError,
        "is a map, not a vector",
    ),
    "torn": Bad(".safetensors", lambda p: p.write_bytes(b"x"), CorruptionError, "no.* safetensors"),
    "nothing": Bad(".safetensors", lambda p: save_file({}, p), UserError, "holds nothing"),
    "another ending": Bad(".bin", lambda p: p.touch(), UserError, "must end in .gguf, .pt"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = BAD[name]
    path = tmp_path / f"v{bad.ending}"
    bad.write(path)
    with pytest.raises(bad.error, match=bad.message):
        read_vector(path, model="m", layer=2)
    assert "never be printed" not in capfd.readouterr().out


def test_a_vector_without_a_layer_needs_one(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ONE)
    with pytest.raises(UserError, match="name the layer"):
        read_vector(tmp_path / "v.npy", model="m")
    with pytest.raises(UserError, match="no vector file at"):
        read_vector(tmp_path / "w.npy", model="m")


@pytest.mark.parametrize(
    ("vectors", "ending", "message"),
    [
        ([vector()], ".bin", "must end in one of .gguf"),
        ([vector(1), vector(2)], ".npy", "a .npy file holds one vector, not 2"),
        ([vector(1), vector(1)], ".pt", "one vector for each layer"),
        ([vector(0)], ".gguf", "no control vector at layer 0"),
        ([vector(1), SteeringVector("x", "b/large", 2, TENSOR)], ".pt", "a/small, b/large"),
    ],
)
def test_what_a_format_does_not_hold_is_refused(
    tmp_path: Path, vectors: list[SteeringVector], ending: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write_vectors(vectors, tmp_path / f"v{ending}")
    assert not list(tmp_path.iterdir())
