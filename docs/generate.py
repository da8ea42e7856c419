"""Write the generated parts of the documentation: `python docs/generate.py`, or `make docs`.

A generated part stands in its page between `<!-- generated: NAME -->` and `<!-- end: NAME -->`; the
rest of the page is written by hand.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from annotated_types import Ge, Gt
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from lrt_dist.config import RunConfig
from lrt_dist.linear.fit import FitMetrics
from lrt_dist.store.ledger import UnitRecord
from lrt_dist.store.tables import (
    AgreementRow,
    BandRow,
    ControlRow,
    FitRow,
    GeneratedRow,
    ItemRow,
    JointFitRow,
    LayerRow,
    MapRow,
    OverlapRow,
    ReplyRow,
    ScoreRow,
    SolvedRow,
    TextRow,
    VectorRow,
    VerdictRow,
    schema,
)

DOCS = Path(__file__).parent
TABLES: tuple[type, ...] = (
    FitRow,
    JointFitRow,
    SolvedRow,
    MapRow,
    FitMetrics,
    LayerRow,
    OverlapRow,
    ItemRow,
    ScoreRow,
    VectorRow,
    ControlRow,
    AgreementRow,
    VerdictRow,
    BandRow,
    GeneratedRow,
    TextRow,
    ReplyRow,
)
OWN_CODE = "`module:attribute`"


def pages() -> dict[Path, str]:
    """What every page with generated parts should hold now."""
    wanted: dict[Path, str] = {}
    for path, name, make in PARTS:
        text = wanted.get(path) or path.read_text(encoding="utf-8")
        wanted[path] = replace_part(text, name, make())
    return wanted


def replace_part(page: str, name: str, content: str) -> str:
    """The page with another content between the two comments of a part.

    Raises:
        ValueError: the page does not have the two comments once each, in this order.
    """
    begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed) or page.count(begin) + page.count(end) > 2:
        raise ValueError(f"a page needs {begin} and {end}, once each, in this order")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


# Configuration


def own_code_keys() -> str:
    """The keys that may name an object of the user's own, as a list."""
    return "\n".join(
        f"- `{path}.{key}`"
        for paths, section in sections()
        for path in paths
        for key, field in section.model_fields.items()
        if OWN_CODE in (field.description or "")
    )


def configuration() -> str:
    """A table of the keys of every section."""
    parts = ["## Top level\n\n" + _keys(RunConfig, _anchors())]
    for paths, section in sections():
        heading = ", ".join(f"`{path}`" for path in paths)
        about = " ".join((section.__doc__ or "").split())
        parts.append(f"## {heading}\n\n{about}\n\n{_keys(section)}")
    return "\n\n".join(parts)


def sections() -> list[tuple[list[str], type[BaseModel]]]:
    """Every section once, with the paths at which it stands; `[]` after a list of sections."""
    found: dict[type[BaseModel], list[str]] = {}
    for path, section in _walk(RunConfig, ""):
        found.setdefault(section, []).append(path)
    return [(paths, section) for section, paths in found.items()]


def _walk(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for key, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section:
            inner = path + key + ("[]" if get_origin(field.annotation) is tuple else "")
            yield inner, section
            yield from _walk(section, f"{inner}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _anchors() -> dict[str, str]:
    """Top-level keys that are sections, with the anchors of these sections' headings."""
    return {
        path.removesuffix("[]"): "-".join(re.sub(r"\W", "", p) for p in paths)
        for paths, _ in sections()
        for path in paths
        if "." not in path
    }


def _keys(model: type[BaseModel], anchors: dict[str, str] | None = None) -> str:
    rows = []
    for key, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{key} has no description"
        anchor = (anchors or {}).get(key)
        name = f"[`{key}`](#{anchor})" if anchor else f"`{key}`"
        rows.append((name, kind_of(field.annotation, field.metadata), _default(field),
                     field.description))  # fmt: skip
    return _table(("key", "value", "default", "meaning"), rows)


def kind_of(annotation: Any, limits: Any = (), *, plural: bool = False) -> str:
    """The values of a type in plain words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    s = "s" if plural else ""
    if origin is Annotated:
        (field,) = annotation.__metadata__
        return kind_of(arguments[0], field.metadata, plural=plural)
    if origin is Literal:
        return _either(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return _either(kind_of(argument) for argument in arguments)
    if origin is tuple:
        shape = "list" if arguments[-1] is ... else "pair"
        return f"{shape}{s} of {kind_of(arguments[0], plural=True)}"
    if annotation is NoneType:
        return "null"
    if annotation is bool:
        return "`true` or `false`"
    if _section_of(annotation):
        return f"section{s}"
    noun = {str: "text", int: "whole number", float: "number", ByteSize: "size"}[annotation]
    return noun + s + "".join(_limit(limit) for limit in limits)


def _either(kinds: Iterator[str]) -> str:
    *first, last = kinds
    return f"{', '.join(first)} or {last}" if first else last


def _limit(limit: Any) -> str:
    if isinstance(limit, Ge):
        return f" from {limit.ge}"
    return f" above {limit.gt}" if isinstance(limit, Gt) else ""


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "required"
    if isinstance(value, BaseModel):
        return "its own defaults"
    if isinstance(value, ByteSize):
        return f"`{value.human_readable().replace('.0', '')}`"
    plain = isinstance(value, str) and value.isprintable()
    return f"`{value if plain else json.dumps(value)}`"


# The store format


def unit_record() -> str:
    """The keys of a ledger record."""
    kinds: dict[Any, str] = {
        int: "integer",
        float: "number",
        str: "string",
        dict: "object",
        tuple: "list",
    }
    meanings = attributes(UnitRecord)
    return _table(
        ("key", "type", "meaning"),
        [
            (f"`{key}`", kinds[get_origin(field.annotation) or field.annotation], meanings[key])
            for key, field in UnitRecord.model_fields.items()
        ],
    )


def tables() -> str:
    """The columns of every row type; inherited ones stand once, at the type they come from."""
    return "\n\n".join(_columns(row) for row in TABLES)


def _columns(row: type) -> str:
    meanings = attributes(row)
    columns = [
        (f"`{column.name}`", arrow_kind(column.type), meanings[column.name])
        for column in schema(row)
        if column.name in inspect.get_annotations(row)
    ]
    about = inspect.cleandoc(row.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    parts = [f"### {row.__name__}", about, _table(("column", "type", "meaning"), columns)]
    (base,) = row.__bases__
    if is_dataclass(base):
        parts.append(f"Further columns: those of [{base.__name__}](#{base.__name__.lower()}).")
    return "\n\n".join(parts)


def attributes(kind: type) -> dict[str, str]:
    """The `Attributes:` of a class's docstring, by name, each as one line."""
    _, _, listed = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    meanings: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        begins = re.fullmatch(r" {4}(\w+): (.+)", line)
        if begins:
            name, meanings[begins[1]] = begins[1], begins[2]
        elif line.startswith(" " * 8):
            meanings[name] += " " + line.strip()
        else:
            break
    return meanings


def arrow_kind(kind: pa.DataType) -> str:
    """An Arrow type as the pages call it."""
    if pa.types.is_list(kind):
        return f"list of {arrow_kind(kind.value_type)}"
    return "float64" if pa.types.is_float64(kind) else str(kind)


# Coverage


def coverage() -> str:
    """What the benchmark found: coverage of every kind of interval, and the width of ours."""
    result = json.loads((DOCS.parent / "benchmarks/results/coverage.json").read_text("utf-8"))
    runs = result["runs"]
    kinds = tuple(runs[0]["coverage"])
    head = ("data", "items", *kinds, "width", "no end")
    rows = []
    for run in runs:
        width = run["width"].get("ours")
        rows.append(
            (
                run["data"],
                str(run["items"]),
                *(f"{100 * run['coverage'][kind]:.1f}" for kind in kinds),
                f"{width:.2f}" if width else "none",
                f"{100 * run['unbounded']:.1f} %",
            )
        )
    return _table(head, rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    for cell in (cell for row in rows for cell in row):
        assert "|" not in cell, f"a table cannot hold {cell!r}"
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PARTS: tuple[tuple[Path, str, Callable[[], str]], ...] = (
    (DOCS / "configuration.md", "own code", own_code_keys),
    (DOCS / "configuration.md", "keys", configuration),
    (DOCS / "store-format.md", "ledger record", unit_record),
    (DOCS / "store-format.md", "tables", tables),
    (DOCS / "coverage.md", "coverage", coverage),
)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
