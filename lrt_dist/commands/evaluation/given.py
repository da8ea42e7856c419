"""Vectors that a user brings, in place of vectors made from contrast data."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from lrt_dist.config import ConceptConfig
from lrt_dist.errors import UserError
from lrt_dist.files import place
from lrt_dist.maps.vector_files import read_vector
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.sites import Side
from lrt_dist.workspace.run import Run


def given_vector(run: Run, concept: ConceptConfig, side: Side, layer: int) -> SteeringVector | None:
    """A concept's vector at a layer of one model, if its file is given.

    Raises:
        UserError: the file is not there, is none of vectors, has none of this layer, or one of
            another model or width.
    """
    file = concept.vector.files.get(side)
    if file is None:
        return None
    model, width = run.folder.model(side).model, run.widths[side]
    try:
        vector = read_vector(file, model=model, layer=layer, concept=concept.name)
    except UserError as error:
        raise UserError(f"concept {concept.name}, vector.{side}: {error}") from error
    if vector.layer != layer or len(vector.values) != width:
        raise UserError(
            f"concept {concept.name}, vector.{side}: {file} holds a vector of layer {vector.layer} "
            f"with {len(vector.values)} dimensions; wanted is one of layer {layer} of {model}, "
            f"which has {width}. Change {side}.layers, or give another file"
        )
    if not bool(vector.values.any()):
        raise UserError(f"concept {concept.name}, vector.{side}: {file} is zero at layer {layer}")
    # A file of ours names its model as it was called there.
    return replace(vector, concept=concept.name, model=model)


def check_given_vectors(run: Run) -> None:
    """Whether all that are given can be used; asked before anything is started.

    Raises:
        UserError: see `given_vector`.
    """
    for concept in run.config.concepts:
        for side in Side:
            for layer in run.layers[side]:
                given_vector(run, concept, side, layer)


def given_content(concept: ConceptConfig) -> dict[str, str]:
    """Hash of every file that a concept's vectors are read from, by side."""
    return {
        side: hashlib.sha256(place(file).read_bytes()).hexdigest()
        for side, file in concept.vector.files.items()
    }
