"""The templates of pages, with the filters that they use."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lrt_dist.formatting import percent, percent_range
from lrt_dist.report.concept_cards import tone
from lrt_dist.report.controls import LABELS
from lrt_dist.report.text import interval, number, signed, signed_interval


def environment() -> Environment:
    """Of every page; what a template names and is not given is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=number, signed=signed, percent=percent)
    made.globals.update(
        percent_range=percent_range,
        interval=interval,
        signed_interval=signed_interval,
        tone=tone,
        labels=LABELS,
    )
    return made
