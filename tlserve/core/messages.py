"""What the daemon and the trainer say to each other: frozen dataclasses, one JSON object a line.

Events carry the id of their job, and a job's results may be told twice: whoever receives them must not
mind (idempotence). `encode` and `decode` are inverse for every message here.
"""

from __future__ import annotations

import json
import typing

from tlserve.core.events import (
    BackboneDescribed,
    BackboneEntry,
    BackbonesChecked,
    BackbonesListed,
    Compared,
    Exported,
    ImagesPassed,
    PassDone,
    ProblemNote,
    Progress,
    ReportWritten,
    SnapshotTaken,
    TrainerReady,
    Tuned,
    TuneProgressed,
)
from tlserve.core.jobs import (
    Cancel,
    CheckBackbonesJob,
    CompareJob,
    DescribeBackboneJob,
    ExportFileJob,
    ExportJob,
    ListBackbonesJob,
    PassJob,
    Recipe,
    ReportJob,
    TuneJob,
)
from tlserve.core.wire import as_json, from_json

__all__ = [
    "BackboneDescribed",
    "BackboneEntry",
    "BackbonesChecked",
    "BackbonesListed",
    "Cancel",
    "CheckBackbonesJob",
    "CompareJob",
    "Compared",
    "DescribeBackboneJob",
    "Event",
    "ExportFileJob",
    "ExportJob",
    "Exported",
    "ImagesPassed",
    "Job",
    "ListBackbonesJob",
    "Message",
    "PassDone",
    "PassJob",
    "ProblemNote",
    "Progress",
    "Recipe",
    "ReportJob",
    "ReportWritten",
    "SnapshotTaken",
    "TrainerReady",
    "TuneJob",
    "TuneProgressed",
    "Tuned",
    "decode",
    "encode",
]

Message = (
    PassJob
    | ExportJob
    | ExportFileJob
    | ReportJob
    | CompareJob
    | TuneJob
    | ListBackbonesJob
    | CheckBackbonesJob
    | DescribeBackboneJob
    | Cancel
    | TrainerReady
    | Progress
    | SnapshotTaken
    | ImagesPassed
    | PassDone
    | TuneProgressed
    | Tuned
    | ReportWritten
    | Compared
    | Exported
    | BackbonesListed
    | BackbonesChecked
    | BackboneDescribed
)
Job = (
    PassJob
    | ExportJob
    | ExportFileJob
    | ReportJob
    | CompareJob
    | TuneJob
    | ListBackbonesJob
    | CheckBackbonesJob
    | DescribeBackboneJob
)
Event = (
    TrainerReady
    | Progress
    | SnapshotTaken
    | ImagesPassed
    | PassDone
    | TuneProgressed
    | Tuned
    | ReportWritten
    | Compared
    | Exported
    | BackbonesListed
    | BackbonesChecked
    | BackboneDescribed
)

_BY_NAME: dict[str, type[Message]] = {kind.__name__: kind for kind in typing.get_args(Message)}


def encode(message: Message) -> bytes:
    """One line of JSON, newline included."""
    return json.dumps({"type": type(message).__name__, **as_json(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message on a line; raises ValueError for anything that is not one."""
    try:
        raw = json.loads(line)
        return from_json(_BY_NAME[raw.pop("type")], raw)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a message: {line[:200]!r}") from exc
