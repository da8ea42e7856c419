"""Text that every Python carries: its language reference and its library's docstrings."""

from __future__ import annotations

import ast
import itertools
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SHORTEST = 400
"""Characters below which a docstring is no document."""


def python_documentation(limit: int) -> dict[str, str]:
    """`{name: text}`: topics of the language reference first, then modules' docstrings.

    Modules are parsed, never imported. `limit` bounds the characters, so that the demo is the
    same size everywhere; its text still depends on the Python version.
    """
    documents: dict[str, str] = {}
    size = 0
    for name, text in itertools.chain(_topics().items(), _docstrings()):
        if size >= limit:
            break
        kept = text[: limit - size]
        documents[name] = kept
        size += len(kept)
    return documents


def _topics() -> dict[str, str]:
    from pydoc_data import topics

    return {f"topic {name}": text for name, text in sorted(topics.topics.items())}


def _docstrings() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in sorted(sys.stdlib_module_names):
        path = next(
            (p for p in (library / f"{name}.py", library / name / "__init__.py") if p.is_file()),
            None,
        )
        if path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [
            tree,
            *(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)),
        ]
        texts = [doc for node in nodes if (doc := ast.get_docstring(node))]
        text = "\n\n".join(texts)
        if len(text) >= SHORTEST:
            yield f"module {name}", text
