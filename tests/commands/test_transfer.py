"""From file to file: `lrt-dist transfer`, `lrt-dist import-map` and `lrt-dist export`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.vector_files import read_vector, write_vectors
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.sites import Sided

CommandLine = Callable[..., tuple[int, str]]

VECTOR = SteeringVector("mood", "a/small", 3, torch.tensor([3.0, -4.0, 0.0]), "pca", 12, 2.0)
MAP = AffineMap(
    torch.tensor([[1.0, 2.0], [0.0, 1.0], [5.0, 5.0]]),
    torch.tensor([100.0, 100.0]),
    ("a/small", 3),
    ("b/large", 7),
    norms=Sided(2.0, 9.0),
)


def test_a_vector_goes_through_a_map_and_out_to_another_tool(
    tmp_path: Path, lrt_dist: CommandLine
) -> None:
    VECTOR.save(tmp_path / "mood.safetensors")
    MAP.save(tmp_path / "map.safetensors")
    there = str(tmp_path / "there.safetensors")
    code, text = lrt_dist(
        "transfer",
        str(tmp_path / "map.safetensors"),
        str(tmp_path / "mood.safetensors"),
        "-o",
        there,
    )
    assert (code, text) == (0, f"mood at b/large layer 7: {there}")
    transferred = SteeringVector.load(there)
    assert transferred.values.tolist() == [3.0, 2.0], "by the weight alone"
    assert (transferred.model, transferred.layer, transferred.norm) == ("b/large", 7, 9.0)

    for name, arguments in (("as-it-is", ()), ("at-0.1", ("--strength", "0.1"))):
        out = str(tmp_path / f"{name}.gguf")
        code, text = lrt_dist("export", there, "-o", out, *arguments)
        assert (code, text) == (0, f"layer 7 of b/large: {out}")
    read = [read_vector(tmp_path / f"{n}.gguf", model="b/large") for n in ("as-it-is", "at-0.1")]
    assert read[0].values.tolist() == [3.0, 2.0]
    assert read[1].values.norm() == pytest.approx(0.9)


@pytest.mark.parametrize("ending", [".gguf", ".pt", ".npy", ".safetensors"])
def test_a_vector_of_another_tool_lives_where_the_map_begins(
    tmp_path: Path, lrt_dist: CommandLine, ending: str
) -> None:
    write_vectors([VECTOR], tmp_path / f"theirs{ending}")
    MAP.save(tmp_path / "map")
    there = str(tmp_path / "there.safetensors")
    theirs = str(tmp_path / f"theirs{ending}")
    code, text = lrt_dist(
        "transfer", str(tmp_path / "map"), theirs, "-o", there, "--concept", "joy"
    )
    assert (code, text) == (0, f"joy at b/large layer 7: {there}")
    assert SteeringVector.load(there).values.tolist() == [3.0, 2.0]


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another model": ({"model": "c/other"}, {}, "lives at c/other layer 3, .* begins at a/small"),
    "another layer": ({"layer": 2}, {}, "lives at a/small layer 2, .* begins at a/small layer 3"),
    "another width": (
        {"values": torch.ones(4)},
        {},
        "has 4 dimensions, .* takes those of a/small layer 3, 3",
    ),
    "the other way": (
        {"model": "b/large", "layer": 7, "values": torch.ones(2)},
        {},
        "this map goes the other way",
    ),
    "several layers": ({}, {"source": ("a/small", (2, 3))}, "takes layers 2.3 together"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, lrt_dist: CommandLine, name: str
) -> None:
    of_vector, of_map, message = BAD[name]
    replace(VECTOR, **of_vector).save(tmp_path / "mood.safetensors")
    replace(MAP, **of_map).save(tmp_path / "map.safetensors")
    out = tmp_path / "there.safetensors"
    arguments = (str(tmp_path / "map.safetensors"), str(tmp_path / "mood.safetensors"))
    code, text = lrt_dist("transfer", *arguments, "-o", str(out))
    assert code == 2
    assert re.search(message, text), text
    assert not out.exists()


def test_a_missing_file_and_an_unknown_format_are_named(
    tmp_path: Path, lrt_dist: CommandLine
) -> None:
    MAP.save(tmp_path / "map.safetensors")
    np.save(tmp_path / "mood.npy", np.ones(3))
    arguments = (str(tmp_path / "map.safetensors"), str(tmp_path / "mood.npy"))
    code, text = lrt_dist("transfer", *arguments, "-o", str(tmp_path / "out.gguf"))
    assert code == 2
    assert "must end in .safetensors; `lrt-dist export` writes other formats" in text
    code, text = lrt_dist("transfer", "nowhere.safetensors", arguments[1], "-o", "x.safetensors")
    assert code == 2
    assert "no map at nowhere.safetensors" in text
    code, text = lrt_dist("export", "nowhere.safetensors", "-o", "x.gguf")
    assert code == 2
    assert "no steering vector at nowhere.safetensors" in text


IMPORT = (
    "--source",
    "a/small",
    "--source-layer",
    "3",
    "--target",
    "b/large",
    "--target-layer",
    "7",
)


def test_a_map_of_another_tool_maps_vectors(tmp_path: Path, lrt_dist: CommandLine) -> None:
    layer = torch.nn.Linear(3, 2)
    torch.save(layer.state_dict(), tmp_path / "theirs.pt")
    VECTOR.save(tmp_path / "mood.safetensors")
    ours, there = str(tmp_path / "ours.safetensors"), str(tmp_path / "there.safetensors")
    code, text = lrt_dist(
        "import-map", str(tmp_path / "theirs.pt"), "--form", "Ax", *IMPORT, "-o", ours
    )
    assert (code, text) == (0, f"a/small layer 3, 3 dimensions, to b/large layer 7, 2: {ours}")
    assert lrt_dist("transfer", ours, str(tmp_path / "mood.safetensors"), "-o", there)[0] == 0
    torch.testing.assert_close(
        SteeringVector.load(there).values, layer.weight.detach() @ VECTOR.values
    )


def test_a_map_of_another_tool_that_goes_the_other_way(
    tmp_path: Path, lrt_dist: CommandLine
) -> None:
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "theirs.pt")
    out = str(tmp_path / "ours.safetensors")
    code, text = lrt_dist(
        "import-map", str(tmp_path / "theirs.pt"), "--form", "xA", *IMPORT, "-o", out
    )
    assert code == 2
    assert "as Ax it would fit" in " ".join(text.split())
    assert not Path(out).exists()
