"""What is written is what is read, or it is an error that names the place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from raw_objects import Objects
from tiny_store import make, states

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.objects import delete_partial_writes

CHUNK = "s.zarr/layers/2/c/1/0"


@pytest.mark.parametrize("compress", ["none", "zstd"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_round_trip(url: str, dtype: str, compress: str) -> None:
    """A copy, and norms of the same shapes: equal bits."""
    store = make(f"{url}/s.zarr", dtype, compress)
    written = store.write(1, 5, states())
    assert written.checksums.keys() == {"layers/5", "norms/5"}
    again = ActivationStore.open(f"{url}/s.zarr")
    expected = states().to(getattr(torch, dtype))
    assert torch.equal(again.states(5, 1, written.checksums["layers/5"]), expected)
    norms = torch.linalg.vector_norm(states(), dim=1).numpy()
    np.testing.assert_array_equal(again.norms(5, 1), norms)
    assert written.mean_norm == pytest.approx(norms.mean(), rel=1e-6)
    assert again.checksum("layers/5", 1) == written.checksums["layers/5"]


def test_the_checksums_of_a_unit_are_those_that_were_written(url: str) -> None:
    store = make(f"{url}/s.zarr")
    written = store.write(1, 2, states()).checksums | store.write(1, 5, states(seed=1)).checksums
    assert store.checksums(1) == written
    assert store.checksums(0) != written


def test_values_beyond_float16_survive(url: str) -> None:
    """A copy: equal bits."""
    store = make(f"{url}/s.zarr")
    massive = torch.full((4, 6), 70144.0)  # seen in real residual streams
    store.write(0, 2, massive)
    assert torch.equal(store.states(2, 0).float(), massive)


def test_the_last_unit_is_short(url: str) -> None:
    store = make(f"{url}/s.zarr")
    store.write(2, 2, states(2))
    assert store.units == 3
    assert store.states(2, 2).shape == (2, 6)


def test_one_unit_is_one_object_and_zeros_are_written(url: str, objects: Objects) -> None:
    make(f"{url}/s.zarr")
    # at every opening anew: the setting is not kept in the store
    ActivationStore.open(f"{url}/s.zarr").write(0, 2, torch.zeros(4, 6))
    assert objects.names("s.zarr/layers/2/c") == [CHUNK.replace("1/0", "0/0")]


def test_any_zarr_reader_can_open_it(tmp_path: Path) -> None:
    store = make(str(tmp_path / "s.zarr"))
    store.write(0, 2, states())
    array = zarr.open_group(tmp_path / "s.zarr", mode="r")["layers/2"]
    assert isinstance(array, zarr.Array)
    assert array.attrs["logical_dtype"] == "bfloat16"
    raw = np.asarray(array[:4]).astype(np.uint32) << 16
    np.testing.assert_allclose(raw.view(np.float32), states().numpy(), rtol=1e-2)
    meta = json.loads((tmp_path / "s.zarr/layers/2/zarr.json").read_text())
    assert [codec["name"] for codec in meta["codecs"]] == ["bytes"]


@pytest.mark.parametrize("byte", [0, 17, 47])
def test_a_flipped_bit_is_found(url: str, objects: Objects, byte: int) -> None:
    store = make(f"{url}/s.zarr")
    checksum = store.write(1, 2, states()).checksums["layers/2"]
    content = bytearray(objects.read(CHUNK))
    content[byte] ^= 1
    objects.write(CHUNK, bytes(content))
    with pytest.raises(CorruptionError, match=r"layers/2 of unit 1 has crc32 .* the ledger says"):
        store.states(2, 1, checksum)


@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_a_chunk_that_was_cut_short_is_found(url: str, objects: Objects, compress: str) -> None:
    store = make(f"{url}/s.zarr", compress=compress)
    store.write(1, 2, states())
    objects.write(CHUNK, objects.read(CHUNK)[:-5])
    with pytest.raises(CorruptionError, match=r"layers/2, rows 4 … 7: "):
        store.states(2, 1)


def test_a_chunk_that_is_gone_is_found(url: str, objects: Objects) -> None:
    store = make(f"{url}/s.zarr")
    checksum = store.write(1, 2, states()).checksums["layers/2"]
    objects.delete(CHUNK)
    with pytest.raises(CorruptionError, match=r"layers/2 of unit 1 .* the ledger says"):
        store.states(2, 1, checksum)


def test_creating_again_keeps_what_is_there(url: str) -> None:
    """A copy: equal bits."""
    make(f"{url}/s.zarr").write(0, 2, states())
    assert torch.equal(make(f"{url}/s.zarr").states(2, 0), states().bfloat16())


def test_a_store_of_another_run_is_refused(url: str) -> None:
    make(f"{url}/s.zarr")
    with pytest.raises(UserError, match="was made by another run than its ledger"):
        ActivationStore.create(
            f"{url}/s.zarr",
            layers={2: 6},
            rows=10,
            rows_per_unit=4,
            logical_dtype="bfloat16",
            compress="none",
            fingerprint="another",
        )


def test_a_store_that_is_not_there(url: str) -> None:
    with pytest.raises(UserError, match="no activation store at"):
        ActivationStore.open(f"{url}/none.zarr")


def test_sweeping_takes_only_what_writers_left_half_done(tmp_path: Path) -> None:
    make(str(tmp_path / "s.zarr")).write(0, 2, states())
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "s.zarr/layers/2/c/0/0#7").write_bytes(b"torn")
    assert delete_partial_writes(str(tmp_path / "s.zarr")) == 1
    assert sorted(tmp_path.rglob("*")) == before
