"""A hundred texts that run as script wherever a page forgets to escape one of its contexts."""

import json
from dataclasses import replace

from record_factory import make_failure
from synthetic_study import MINILM, front_for, make_study, write_manifest

from autopeft.dashboard.info import StudyInfo, study_info
from autopeft.front_file import write_front
from autopeft.records import Failure, Metric, Objective
from autopeft.study.folder import Study

_RUN = "window.pwned=1"
_TAGS = (
    "<script>{}</script>",
    "<img src=x onerror={}>",
    "<svg onload={}>",
    "<svg><script>{}</script></svg>",
    "<body onload={}>",
    "<iframe srcdoc='<script>parent.{}</script>'>",
    "<details open ontoggle={}>",
    "<input autofocus onfocus={}>",
    "<video><source onerror={}></video>",
    "<a href='javascript:{}'>x</a>",
    "<math><mtext><img src=x onerror={}></mtext></math>",
    "<style onload={}></style>",
    "<object data='javascript:{}'></object>",
    "<embed src='javascript:{}'>",
    "<form><button formaction='javascript:{}'>x</button></form>",
    "<svg><animate onbegin={} attributeName=x dur=1s>",
    "<marquee onstart={}>",
    "<audio src=x onerror={}>",
    "<link rel=stylesheet href=x onerror={}>",
    "<base href='javascript:{}//'>",
)
_ESCAPES = ("{}", "</script>{}", '">{}', "'>{}", "--><!--{}-->")
PAYLOADS = tuple(
    escape.replace("{}", tag.replace("{}", _RUN)) for escape in _ESCAPES for tag in _TAGS
)
assert len(set(PAYLOADS)) == 100


def hostile_study(folder, payload: str) -> StudyInfo:
    """A study in which every text that is not fixed by the schema is the payload."""
    study = make_study(folder, 8, failing=0.0, rungs=2, metric=payload, worker=payload)
    records = [
        replace(
            record,
            split=payload,
            precision=payload,
            metrics=dict.fromkeys([payload, f"{payload}2"], Metric(0.5 + record.trial / 100, 0.01)),
            objectives={
                **record.objectives,
                f"{payload}3": Objective(1.0 + record.trial, payload, 0.1),
            },
        )
        for record in study.records()
    ]
    first = records[0]
    failure = make_failure(trial=99, failure=Failure("error", payload), worker=payload)
    records.append(replace(failure, genotype=first.genotype, hash=first.hash))
    lines = "".join(record.to_json() + "\n" for record in records)
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    front = front_for(records, payload)
    points = tuple(replace(point, summary=payload) for point in front.points)
    write_front(folder, replace(front, points=points))
    write_manifest(
        folder,
        MINILM.backbone_params // 100,
        MINILM,
        created=payload,
        versions={payload: payload},
        machine={"device": payload},
        model={"name": payload, **MINILM.to_dict()},
        data={
            "rows": {payload: 3, "validation": 4},
            "labels": [payload],
            "notes": [payload],
        },
        settings={"epochs": payload, "precision": payload},
        cohort=payload,
    )
    score = {"value": 0.5, "stderr": 0.1}
    results = [{"role": payload, "trial": 0, "metrics": {payload: score}}]
    opening = {"rows": 5, "metric": payload, "results": results}
    (folder / "test.json").write_text(json.dumps({"openings": [opening]}), encoding="utf-8")
    return replace(study_info(Study(folder)), name=payload, folder=payload)
