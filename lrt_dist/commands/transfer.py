"""`lrt-dist transfer`, `export` and `import-map`: from file to file, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrt_dist.errors import UserError
from lrt_dist.files import place
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.map_files import Form, read_map
from lrt_dist.maps.vector_files import read_vector, write_vectors
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.sites import layers_text


def transfer(
    map_path: str | Path, vector_path: str | Path, out: str | Path, concept: str | None = None
) -> SteeringVector:
    """Map the vector of a file, and write the result.

    Args:
        map_path: a map, e.g. `OUT/maps/15-9.safetensors`.
        vector_path: a vector of the model and layer where the map begins; see
            `lrt_dist.maps.vector_files` for the formats.
        out: a `.safetensors` file.
        concept: what the vector stands for, where its file does not say it.

    Returns:
        The vector in the other model. It knows the norm of its layer, if the map does.

    Raises:
        UserError: a file is not there, or the vector does not live where the map begins.
    """
    out = place(out)
    if out.suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors; `lrt-dist export` writes other formats")
    found = AffineMap.load(map_path)
    model, layer = found.source
    if not isinstance(layer, int):
        raise UserError(f"{map_path} takes layers {layers_text(layer)} together, not one vector")
    vector = read_vector(vector_path, model=model, layer=layer, concept=concept)
    if (vector.model, vector.layer) == found.target:
        raise UserError(
            f"{vector_path} lives at {vector.model} layer {vector.layer}, where {map_path} ends: "
            "this map goes the other way. With fit.reverse: true, a run fits maps back as well"
        )
    if (vector.model, vector.layer) != found.source:
        raise UserError(
            f"{vector_path} lives at {vector.model} layer {vector.layer}, {map_path} begins at "
            f"{model} layer {layer}"
        )
    if len(vector.values) != found.weight.shape[0]:
        raise UserError(
            f"{vector_path} has {len(vector.values)} dimensions, {map_path} takes those of {model} "
            f"layer {layer}, {found.weight.shape[0]}"
        )
    transferred = found.transfer(vector)
    transferred.save(out)
    return transferred


def import_map(
    path: str | Path,
    out: str | Path,
    *,
    form: Form,
    source: tuple[str, int],
    target: tuple[str, int],
) -> AffineMap:
    """Write a map of another tool as one of ours; see `lrt_dist.maps.map_files.read_map`.

    Args:
        out: a `.safetensors` file, or a folder with a model card.

    Raises:
        UserError: the file is not there, or is no map.
    """
    found = read_map(path, form=form, source=source, target=target)
    found.save(out)
    return found


def export(
    vector_paths: Sequence[str | Path], out: str | Path, strength: float | None = None
) -> list[SteeringVector]:
    """Write vectors of ours for another tool; see `lrt_dist.maps.vector_files.write_vectors`.

    Raises:
        UserError: a file is not there, or the format does not hold these vectors.
    """
    vectors = [SteeringVector.load(path) for path in vector_paths]
    write_vectors(vectors, out, strength=strength)
    return vectors
