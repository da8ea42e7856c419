"""Run every test of a fault, and write the table of faults.md from what they did.

`python -m docs.faults` takes 18 minutes on two cores. A test of a fault is marked
`fault(what, outcome)`, and records the attempts it counted as the property `attempts`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from docs.generate import DOCS, replace_part

PAGE = DOCS / "faults.md"
PART = "faults"


@dataclass
class Fault:
    """A line of the table; several cases of one test are one line."""

    what: str
    outcome: str
    test: str
    slow: bool
    attempts: list[str] = field(default_factory=list)
    passed: int = 0
    failed: int = 0

    def line(self) -> str:
        """For the table."""
        attempts = " / ".join(dict.fromkeys(self.attempts))
        where = f"`{self.test}`" + (", slow" if self.slow else "")
        return f"| {self.what} | {self.outcome} | {attempts} | {where} |"


class Watch:
    """A plugin of pytest that keeps what the tests of faults did."""

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            marker = item.get_closest_marker("fault")
            if marker is not None:
                what, outcome = marker.args
                slow = item.get_closest_marker("slow") is not None
                name = _name(item.nodeid)
                self.faults.setdefault(name, Fault(what, outcome, name, slow))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        fault = self.faults.get(_name(report.nodeid))
        if fault is None:
            return
        if report.failed:
            fault.failed += 1
        elif report.when == "call" and report.passed:
            fault.passed += 1
            fault.attempts += [str(v) for k, v in report.user_properties if k == "attempts"]


def _name(nodeid: str) -> str:
    """Of a test, whatever its case."""
    return nodeid.partition("[")[0]


def main() -> int:
    """Exit code 1 if a test failed; the others are written all the same."""
    watch = Watch()
    pytest.main(["-m", "fault", "-q", "--timeout", "1800"], plugins=[watch])
    whole = [fault for fault in watch.faults.values() if fault.passed and not fault.failed]
    table = "\n".join(
        [
            "| fault | what happens | attempts | test |",
            "|---|---|---|---|",
            *(fault.line() for fault in whole),
        ]
    )
    PAGE.write_text(
        replace_part(PAGE.read_text(encoding="utf-8"), PART, f"\n{table}\n"), encoding="utf-8"
    )
    return int(len(whole) < len(watch.faults))


if __name__ == "__main__":
    sys.exit(main())
