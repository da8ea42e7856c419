"""The model card of a map: what a reader on a hub must know to use it and to judge it."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import yaml

from lrt_dist.sites import layers_text

if TYPE_CHECKING:
    from lrt_dist.maps.affine import AffineMap

_HUB_NAME = re.compile(r"(?!.*(--|\.\.))\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?", re.ASCII)

_CARD = """\
---
{front_matter}---

# {source_name} layer {source_layer} → {target_name} layer {target_layer}

An affine map `y = x @ weight + bias` between the hidden states of two language models, made with
lrt_dist. It carries steering vectors of the one over to the other.

| | source | target |
|---|---|---|
| model | {source_name} | {target_name} |
| layer | {source_layer} | {target_layer} |
| width | d_source = {d_source} | d_target = {d_target} |

Method: {method}; λ = {ridge}. Weights: {dtype}, `[d_source, d_target]`.

Layer l is the output of decoder block l, counted from 0: the residual stream, before any final
norm.

## Use

```python
from lrt_dist import AffineMap

affine = AffineMap.load("FOLDER")  # this one, as huggingface_hub.snapshot_download leaves it
steering = affine.transfer(vector)  # a SteeringVector
mapped = affine.map_directions(v)  # [..., {d_source}] -> [..., {d_target}]
states = affine.map_points(x)
```

A *point* is a hidden state; a *direction* is a difference of hidden states, as a steering vector
is. The bias cancels in a difference, so a direction is mapped by the weight alone.

## Numbers of the fit

{numbers}

Read R² beside `r2_mismatched`, which is the R² of a map fitted in the same way to states of
*different* documents: only what lies above it was learnt about the two models. R² is not transfer
either. Whether a mapped vector steers has to be tried, beside random directions of the same norm
and the same vector under the mismatched map.
"""


def model_card(affine: AffineMap) -> str:
    """The card, Markdown with YAML front matter; a pure function of the map.

    Of models that are local paths only the last part is named, and none is given as base model.
    """
    d_source, d_target = affine.weight.shape
    models = [affine.source[0], affine.target[0]]
    front_matter: dict[str, Any] = {
        "library_name": "lrt_dist",
        "tags": ["affine-map", "hidden-states", "steering-vectors"],
    }
    if hub_names := [name for name in dict.fromkeys(models) if _is_hub_name(name)]:
        front_matter["base_model"] = hub_names
    source_name, target_name = (
        _text(name if _is_hub_name(name) else PurePath(name).name) for name in models
    )
    return _CARD.format(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False),
        source_name=source_name,
        source_layer=layers_text(affine.source[1]),
        target_name=target_name,
        target_layer=layers_text(affine.target[1]),
        d_source=d_source,
        d_target=d_target,
        method=_text(affine.method),
        ridge=_text(affine.ridge),
        dtype=str(affine.weight.dtype).removeprefix("torch."),
        numbers=_table(affine),
    )


def _is_hub_name(model: str) -> bool:
    """`user/name` or `name`; a `.gguf` is a file, and local folders come with a root."""
    return bool(_HUB_NAME.fullmatch(model)) and not model.endswith(".gguf")


def _table(affine: AffineMap) -> str:
    if not affine.metrics:
        return "None are known: this map was made of other maps, or nobody kept the numbers."
    rows = [f"| {_text(name)} | {_text(value)} |" for name, value in affine.metrics.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _text(value: Any) -> str:
    """A value as one cell of a table has it."""
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else re.sub(r"([|\\`*<\[])", r"\\\1", str(value))
