"""What a model's files hold, by content: equal digests, equal numbers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lrt_dist.files import atomic_write

WEIGHTS = (".safetensors", ".bin")
TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "chat_template*")


def weights_digest(folder: Path, cache: Path) -> str:
    """Of all weights of a local model, names and contents.

    Args:
        folder: the model.
        cache: folder in which digests of files are kept, by path, size and time of change; a
            checkpoint of many gigabytes is read once.
    """
    return _digest((path for path in folder.iterdir() if path.suffix in WEIGHTS), cache)


def tokenizer_digest(folder: Path, cache: Path) -> str:
    """Of all files that decide how a local model's tokenizer cuts texts."""
    return _digest({path for pattern in TOKENIZERS for path in folder.glob(pattern)}, cache)


def file_digest(path: Path, cache: Path) -> str:
    """Of one file's content."""
    facts = path.stat()
    key = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}"
    kept = cache / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    if kept.is_file():
        return kept.read_text(encoding="ascii")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, hashlib.sha256).hexdigest()
    with atomic_write(kept) as partial:
        partial.write_text(digest, encoding="ascii")
    return digest


def _digest(paths: Iterable[Path], cache: Path) -> str:
    chosen = sorted(paths)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # hashing leaves the interpreter alone
        digests = threads.map(lambda path: file_digest(path, cache), chosen)
        named = [f"{path.name} {digest}" for path, digest in zip(chosen, digests, strict=True)]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]
