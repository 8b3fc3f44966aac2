"""Every message survives the pipe between daemon and trainer."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from tests.support_build import tiny_info
from tlserve.core.backbones import BackboneDescription, Speed
from tlserve.core.judge import Policy
from tlserve.core.lifecycle import Phase, Promotion
from tlserve.core.messages import (
    BackboneDescribed,
    BackboneEntry,
    BackbonesChecked,
    BackbonesListed,
    Cancel,
    CheckBackbonesJob,
    Compared,
    CompareJob,
    DescribeBackboneJob,
    Exported,
    ExportFileJob,
    ExportJob,
    ImagesPassed,
    ListBackbonesJob,
    Message,
    PassDone,
    PassJob,
    ProblemNote,
    Progress,
    Recipe,
    ReportJob,
    ReportWritten,
    SnapshotTaken,
    TrainerReady,
    Tuned,
    TuneJob,
    TuneProgressed,
    decode,
    encode,
)
from tlserve.core.plan import Depth, HeadKind, Strategy, TuneWish, Wish
from tlserve.core.tuning import TuneProgress, TuneStage

TINY = BackboneDescription(
    "tiny",
    "tests",
    "package tests",
    tiny_info(),
    trainable=True,
    build="0" * 64,
    speeds=(Speed("backbone", 32, 99.5, "cpu", "a processor", 2, 1.5),),
)
WISH = Wish(
    HeadKind.RIDGE,
    Strategy.TAPS,
    augment=("flip", "rotate=15"),
    views=7,
    mixup=True,
    large_images=9,
    novelty_budget_kb=8,
    tune=TuneWish("all", 3, 0.5, 2.5),
)
FULL = [
    PassJob(
        "job",
        "flowers",
        "/watch/Gänse\nblümchen",
        Recipe("nano", Promotion.MANUAL, Policy(0.02, 0.5), True, 1, 2, 3, WISH, study=False),
        accept_deletions=True,
        force=True,
        noticed_at=1.5,
        depth=Depth.FULL,
        tuned="0" * 64,
    ),
    PassJob("job", "flowers", "/watch/\udcff", Recipe("nano")),
    ExportJob("job", "flowers", 3, (1, 2)),
    ExportFileJob("job", "flowers", 3, "/tmp/x.onnx"),
    ReportJob("job", "flowers", 3, "/watch/flowers"),
    CompareJob("job", "flowers", "/watch/flowers", Recipe("nano", wish=Wish(tune=TuneWish(3))), ("a", "b")),
    TuneJob("job", "flowers"),
    ListBackbonesJob("job"),
    CheckBackbonesJob("job", ("nano", "onnx:Gänse.onnx")),
    DescribeBackboneJob("job", "onnx:Gänse.onnx", measure=True),
    Cancel("job"),
    TrainerReady(7),
    Progress("job", "flowers", Phase.EXTRACTING, 1, 2, 3.5, None, "note"),
    SnapshotTaken("job", "flowers", "id", 5, {"ü": 3}, 1, (ProblemNote("a", "b", "c"),), 4, 0.5),
    ImagesPassed("job", "flowers", "nano", 5, 1),
    PassDone("job", "flowers", "published", "reason", 4, True, 3, False, {"training": 0.5}),
    PassDone("job", "flowers", "unchanged", "reason", study=True, tune=True),
    TuneProgressed("job", "flowers", TuneProgress(TuneStage.TRAINING, 1, 2, 3, 20, 0.5, 0.9, 60.0)),
    Tuned("job", "flowers", "0" * 64, "reason"),
    Tuned("job", "flowers", None, "reason", retryable=True, cancelled=True),
    ReportWritten("job", "/x/report.html"),
    Compared("job", "{}", "<html>"),
    Exported("job", "flowers", 4, "/x", None),
    BackbonesListed("job", (BackboneEntry("nano", "nano"), BackboneEntry("x", "y", "z", "broken"))),
    BackbonesChecked("job", (BackboneEntry("nano", "nano", "small"), BackboneEntry("x", "y", "", "broken"))),
    BackbonesListed("job", (BackboneEntry("a", "b", "c", None, "MIT", 10, 64, 96, 48),)),
    BackboneDescribed("job", TINY),
    BackboneDescribed("job", None, "no plugin offers it", not_found=True),
]


@pytest.mark.parametrize("message", FULL, ids=lambda message: type(message).__name__)
def test_every_message_survives(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode(line) == message


@pytest.mark.parametrize("message", FULL, ids=lambda message: type(message).__name__)
def test_enums_and_tuples_keep_their_types(message: Message) -> None:
    back = decode(encode(message))
    for field in dataclasses.fields(message):
        assert type(getattr(back, field.name)) is type(getattr(message, field.name))


def test_no_message_is_missing_from_this_file() -> None:
    assert {type(message) for message in FULL} == set(typing.get_args(Message))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b'"PassJob"',
        b"{}",
        b"\xff\xfe",
        b'{"type": "Unheard"}',
        b'{"type": ["Cancel"]}',
        b'{"type": "Cancel"}',
        b'{"type": "Cancel", "job_id": "x", "more": 1}',
        b'{"type": "ExportJob", "job_id": "x", "model": "m", "live": 1, "pinned": 5}',
        b'{"type": "Progress", "job_id": "x", "model": "m", "phase": "dancing"}',
        b'{"type": "PassJob", "job_id": "x", "model": "m", "folder": "f", "recipe": []}',
        b'{"type": "Cancel", "job_id": "x"',
    ],
)
def test_anything_else_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)
