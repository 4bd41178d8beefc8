"""What a study came to."""

import json

from study_factory import ledger_states, tree

CLOCKS = ("seconds", "started", "worker")


def outcome(study):
    """All of a study that does not depend on the clock."""
    records = [record.to_dict() for record in study.records()]
    return {
        "records": [{k: v for k, v in r.items() if k not in CLOCKS} for r in records],
        "jobs": tree(study.folder / "jobs"),
        "front": json.loads((study.folder / "front.json").read_text(encoding="utf-8")),
        "ledger": ledger_states(study),
    }
