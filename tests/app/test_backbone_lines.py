"""The catalogue joined with the builds that lie in the state directory."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support_build import tiny_build, tiny_info
from tlserve.app.backbones import backbone_description, backbone_lines
from tlserve.core.backbones import BackboneDescription
from tlserve.core.errors import BackboneProblem, NotFound
from tlserve.core.messages import BackboneDescribed, BackboneEntry
from tlserve.core.precision import Precision, PrecisionTrial
from tlserve.runtime import (
    SPEC_FILE,
    BuildSpec,
    choose_device,
    observed,
    read_build_spec,
    record_speeds,
    record_trial,
    write_build_spec,
)

ENTRY = BackboneEntry("tiny", "tests", "package tests")
CPU = choose_device("cpu")


def put_build(builds: Path, *, seed: int = 0) -> Path:
    """A build where the daemon would look for it."""
    made = tiny_build(builds / "made", seed=seed)
    return made.rename(builds / read_build_spec(made).digest)


def test_a_build_fills_the_blanks_that_its_plugin_leaves(tmp_path: Path) -> None:
    put_build(tmp_path)
    (line,) = backbone_lines([ENTRY], tmp_path)
    assert (line.name, line.detail) == ("tiny", "package tests")
    assert (line.licence, line.n_parameters) == ("MIT", tiny_info().n_parameters)
    assert (line.height, line.width, line.row_width) == (32, 32, 24)
    assert (line.images_per_second, line.measured) == (None, "")


def test_what_the_plugin_says_now_counts_before_what_an_old_build_says(tmp_path: Path) -> None:
    put_build(tmp_path)
    (line,) = backbone_lines([replace(ENTRY, licence="CC0-1.0", row_width=48)], tmp_path)
    assert (line.licence, line.row_width, line.height) == ("CC0-1.0", 48, 32)


def test_a_build_of_another_plugin_or_name_says_nothing(tmp_path: Path) -> None:
    put_build(tmp_path)
    others = [replace(ENTRY, plugin="other"), replace(ENTRY, name="tiny/wide")]
    assert {line.licence for line in backbone_lines(others, tmp_path)} == {None}


def test_the_newest_build_speaks_with_the_speed_that_was_measured_of_it(tmp_path: Path) -> None:
    old, new = put_build(tmp_path, seed=1), put_build(tmp_path, seed=2)
    os.utime(old / SPEC_FILE, (1, 1))
    record_speeds(old, [observed("backbone", 10, 1.0, device=CPU, threads=1, batch_size=32)])
    assert backbone_lines([ENTRY], tmp_path)[0].images_per_second is None
    record_speeds(new, [observed("files", 20, 1.0, device=CPU, threads=1)])
    (line,) = backbone_lines([ENTRY], tmp_path)
    assert (line.images_per_second, line.measured) == (20.0, "files")


def test_a_broken_build_and_no_builds_at_all_leave_the_catalogue_as_it_is(tmp_path: Path) -> None:
    (put_build(tmp_path) / SPEC_FILE).write_text("{")
    (tmp_path / ".making-0").mkdir()
    assert backbone_lines([ENTRY], tmp_path)[0].licence is None
    assert backbone_lines([ENTRY], tmp_path / "nowhere")[0].licence is None


@pytest.fixture
def told() -> BackboneDescribed:
    info = tiny_info()
    found = BackboneDescription("tiny", "tests", "here", info, False, BuildSpec.of(info, "tests").digest)
    return BackboneDescribed("job", found)


def test_a_description_says_where_the_build_lies_once_it_is_made(
    tmp_path: Path, told: BackboneDescribed
) -> None:
    assert backbone_description(told, tmp_path).build_folder == ""
    folder = put_build(tmp_path)
    speed = observed("backbone", 10, 1.0, device=CPU, threads=1, batch_size=1)
    record_speeds(folder, [speed, replace(speed, hardware="elsewhere")])
    found = backbone_description(told, tmp_path)
    assert found.build_folder == str(folder)
    assert found.build_bytes > (folder / "backbone.onnx").stat().st_size
    assert found.speeds == (speed,)


def test_a_description_is_of_the_build_that_was_decided_on(tmp_path: Path, told: BackboneDescribed) -> None:
    plain = put_build(tmp_path)
    trial = PrecisionTrial("int8", "int8", "int8: taken")
    spec = BuildSpec.of(tiny_info(), "tests", "int8")
    int8 = Path(shutil.copytree(plain, tmp_path / spec.digest))
    write_build_spec(int8, replace(spec, trial=trial))
    assert backbone_description(told, tmp_path).build_folder == str(plain)
    named = backbone_description(told, tmp_path, Precision.INT8)
    assert (named.build_folder, named.precision) == (str(int8), "int8")
    record_trial(plain, trial)
    assert backbone_description(told, tmp_path, Precision.FP32).build_folder == str(plain)
    found = backbone_description(told, tmp_path)
    assert (found.build_folder, found.precision, found.trial) == (str(int8), "int8", trial)
    record_trial(plain, replace(trial, chosen="fp32", reason="int8: not taken"))
    found = backbone_description(told, tmp_path)
    assert (found.build_folder, found.precision) == (str(plain), "fp32")
    assert found.trial is not None
    assert found.trial.reason == "int8: not taken"


def test_what_was_just_measured_is_told_even_if_it_could_not_be_kept(
    tmp_path: Path, told: BackboneDescribed
) -> None:
    speed = observed("backbone", 10, 1.0, device=CPU, threads=1, batch_size=1)
    assert told.backbone is not None
    measured = replace(told, backbone=replace(told.backbone, speeds=(speed,)))
    assert backbone_description(measured, tmp_path).speeds == (speed,)


def test_an_unknown_name_and_a_broken_backbone_are_different_errors(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no plugin offers"):
        backbone_description(BackboneDescribed("job", None, "no plugin offers it", not_found=True), tmp_path)
    with pytest.raises(BackboneProblem, match="weights"):
        backbone_description(BackboneDescribed("job", None, "weights are gone"), tmp_path)
