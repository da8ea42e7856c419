"""The site has the folders of the repository, so that a link which works in one works in both."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SHOWN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/*.png")
FOLDERS = ("jobs", "cluster", "benchmarks/results")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of `docs/` by those that are shown; what the theme brings stays."""
    root = Path(config.config_file_path).parent
    paths = [path for pattern in SHOWN for path in root.glob(pattern)]
    paths += [path for folder in FOLDERS for path in (root / folder).iterdir() if path.is_file()]
    shown = [
        File(
            path.relative_to(root).as_posix(),
            str(root),
            config.site_dir,
            config.use_directory_urls,
        )
        for path in sorted(paths)
    ]
    theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*theme, *shown])
