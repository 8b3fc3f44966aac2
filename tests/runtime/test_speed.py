"""Speeds: measured by really running a build, kept beside it, and believed on the same hardware only."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support_build import tiny_build
from tlserve.core.backbones import Speed
from tlserve.runtime import (
    SPEED_FILE,
    BackboneSession,
    choose_device,
    measure,
    measure_build,
    measured_here,
    observed,
    read_speeds,
    record_speeds,
)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return tiny_build(tmp_path / "build")


@pytest.fixture
def speed() -> Speed:
    return observed("backbone", 640, 2.0, device=choose_device("cpu"), threads=1, batch_size=32)


def test_a_measurement_runs_each_batch_size_for_about_the_time_given(build: Path) -> None:
    session = BackboneSession.open(build, choose_device("cpu"), threads=1)
    began = time.perf_counter()
    single, batch = measure(session, (1, 32), seconds=0.1)
    assert time.perf_counter() - began >= 0.2
    assert (single.batch_size, batch.batch_size) == (1, 32)
    assert single.images_per_second > 0
    assert batch.images_per_second > single.images_per_second
    assert (batch.of, batch.device, batch.threads) == ("backbone", "cpu", 1)


def test_a_build_is_measured_alone_and_in_full_batches(build: Path) -> None:
    speeds = measure_build(build, choose_device("cpu"), threads=1, seconds=0.05)
    assert [speed.batch_size for speed in speeds] == [1, 32]
    assert measured_here(speeds) == speeds


def test_a_rate_is_images_by_seconds(speed: Speed) -> None:
    assert speed.images_per_second == 320
    assert abs(speed.measured_at - time.time()) < 60


def test_what_is_kept_is_read_back(build: Path, speed: Speed) -> None:
    assert read_speeds(build) == ()
    assert record_speeds(build, [speed])
    assert read_speeds(build) == (speed,)


def test_a_newer_speed_replaces_only_the_one_under_the_same_circumstances(build: Path, speed: Speed) -> None:
    single = replace(speed, batch_size=1)
    newer = replace(speed, images_per_second=5.0, measured_at=speed.measured_at + 1)
    record_speeds(build, [speed, single])
    record_speeds(build, [newer])
    assert set(read_speeds(build)) == {single, newer}


def test_a_speed_of_other_hardware_is_not_this_machines(speed: Speed) -> None:
    elsewhere = replace(speed, hardware="abacus, 10 beads")
    gpu = replace(speed, device="cuda:0", hardware="a GPU that is not here")
    assert measured_here([elsewhere, speed, gpu]) == (speed,)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"of": "backbone"}]', "\x00"])
def test_a_file_that_is_no_list_of_speeds_counts_as_none(build: Path, text: str, speed: Speed) -> None:
    (build / SPEED_FILE).write_text(text)
    assert read_speeds(build) == ()
    assert record_speeds(build, [speed])
    assert read_speeds(build) == (speed,)


def test_a_disk_that_takes_no_speed_is_no_error(tmp_path: Path, speed: Speed) -> None:
    assert not record_speeds(tmp_path / "no such folder", [speed])


def test_a_build_stays_whole_with_a_speed_beside_it(build: Path, speed: Speed) -> None:
    record_speeds(build, [speed])
    assert BackboneSession.open(build, choose_device("cpu")).spec.name == "tiny"
    assert not [file for file in build.iterdir() if file.name.startswith(".")]
