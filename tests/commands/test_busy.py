"""What the log says of how busy stages were."""

from __future__ import annotations

import json
from pathlib import Path

from lrt_dist.commands._busy import busy_message, busy_messages
from lrt_dist.runtime.log import read_log


def test_a_message_has_every_stage_of_every_replica() -> None:
    message = busy_message("extract tiny", [[0.97, 0.5], [None, None], [0.9]])
    assert message == "extract tiny: stages computed 97%, 50%; 90% of the time"
    assert busy_message("extract tiny", []) is None
    assert busy_message("extract tiny", [[None]]) is None


def test_the_latest_message_of_each_phase_counts(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert busy_messages(read_log(log)) == []
    events = [
        {"event": "busy", "phase": "a", "shares": [[0.1]]},
        {"event": "progress", "phase": "a"},
        {"event": "busy", "phase": "b", "shares": [[0.5, 0.6]]},
        {"event": "busy", "phase": "a", "shares": [[0.2]]},
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    log.write_text(lines + '{"event": "busy", "pha')  # a line that is being written
    assert busy_messages(read_log(log)) == [
        "a: stages computed 20% of the time",
        "b: stages computed 50%, 60% of the time",
    ]
