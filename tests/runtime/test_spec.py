from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support_build import TINY_IMAGE, tiny_info
from tlserve.core.errors import CorruptState, StoreUnavailable
from tlserve.core.precision import PrecisionTrial
from tlserve.plugin_api import Tap
from tlserve.runtime import (
    SPEC_FILE,
    BuildSpec,
    build_digest,
    read_build_spec,
    record_trial,
    reference_pixels,
    write_build_spec,
)

SPEC = BuildSpec.of(tiny_info(), plugin="tests")
TRIAL = PrecisionTrial(
    chosen="int8",
    tried="int8",
    reason="int8: 89.1 % against 89.2 %, 2.1 times as fast; taken",
    n_images=800,
    accuracy=0.892,
    accuracy_tried=0.891,
    images_per_second=150.25,
    images_per_second_tried=315.5,
    hardware="a processor, 2 cores",
    decided_at=1_790_000_000.25,
)


def test_a_spec_survives_its_file(tmp_path: Path) -> None:
    write_build_spec(tmp_path, SPEC)
    assert read_build_spec(tmp_path) == SPEC
    assert read_build_spec(tmp_path).info == tiny_info()


@pytest.mark.parametrize(
    "change",
    [
        {"build_version": "2"},
        {"weights_sha256": "0" * 64},
        {"image": replace(TINY_IMAGE, interpolation="bicubic")},
        {"taps": (Tap("early", 9), Tap("features", 16))},
    ],
)
def test_the_digest_changes_with_whatever_changes_features(change: dict[str, Any]) -> None:
    info = tiny_info()
    assert build_digest(replace(info, **change), "tests", "fp32") != build_digest(info, "tests", "fp32")


def test_the_digest_changes_with_plugin_and_precision_and_not_with_words() -> None:
    info = tiny_info()
    digest = build_digest(info, "tests", "fp32")
    assert len(digest) == 64
    assert build_digest(info, "tests", "int8") != digest
    assert build_digest(info, "other", "fp32") != digest
    assert build_digest(replace(info, licence="BSD", weights_origin="moved"), "tests", "fp32") == digest


def test_the_digest_is_the_same_in_every_release() -> None:
    """Changing it voids every cache in the field: do so on purpose only."""
    assert SPEC.digest == "fc78839e9223b311ded7a8e483c5d11bc1f2b1b1d87dc58affde73af932952a8"


def test_a_trial_and_the_processor_are_kept_and_change_no_digest(tmp_path: Path) -> None:
    write_build_spec(tmp_path, replace(SPEC, made_on="Fast 9000 (avx512_vnni)"))
    record_trial(tmp_path, TRIAL)
    found = read_build_spec(tmp_path)
    assert found == replace(SPEC, made_on="Fast 9000 (avx512_vnni)", trial=TRIAL)
    record_trial(tmp_path, replace(TRIAL, chosen="fp32"))
    assert read_build_spec(tmp_path) == replace(found, trial=replace(TRIAL, chosen="fp32"))
    assert [path.name for path in tmp_path.iterdir()] == [SPEC_FILE]


def test_a_spec_of_before_there_were_trials_still_reads(tmp_path: Path) -> None:
    write_build_spec(tmp_path, SPEC)
    raw = json.loads((tmp_path / SPEC_FILE).read_text())
    del raw["trial"], raw["made_on"]
    (tmp_path / SPEC_FILE).write_text(json.dumps(raw))
    assert read_build_spec(tmp_path) == SPEC


def test_a_trial_that_cannot_be_kept_is_the_operators_business(tmp_path: Path) -> None:
    with pytest.raises(CorruptState, match=SPEC_FILE):
        record_trial(tmp_path, TRIAL)
    write_build_spec(tmp_path, SPEC)
    (tmp_path / f".{SPEC_FILE}").mkdir()
    with pytest.raises(StoreUnavailable, match=SPEC_FILE):
        record_trial(tmp_path, TRIAL)
    assert read_build_spec(tmp_path) == SPEC


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"image": 3}', "\udcff"])
def test_an_unreadable_spec_is_corrupt_state(tmp_path: Path, content: str) -> None:
    (tmp_path / SPEC_FILE).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CorruptState, match=SPEC_FILE):
        read_build_spec(tmp_path)


def test_an_altered_spec_is_corrupt_state(tmp_path: Path) -> None:
    write_build_spec(tmp_path, SPEC)
    raw = json.loads((tmp_path / SPEC_FILE).read_text())
    raw["image"]["mean"] = [0, 0, 0]
    (tmp_path / SPEC_FILE).write_text(json.dumps(raw))
    with pytest.raises(CorruptState, match="something else"):
        read_build_spec(tmp_path)


def test_columns_of_neighbouring_taps_are_a_slice() -> None:
    spec = replace(SPEC, taps=(Tap("a", 2), Tap("b", 3), Tap("features", 4)))
    assert spec.row_width == 9
    assert spec.columns(("features",)) == slice(5, 9)
    assert spec.columns(("a", "b")) == slice(0, 5)
    np.testing.assert_array_equal(spec.columns(("features", "a")), [5, 6, 7, 8, 0, 1])


def test_an_unknown_tap_is_named_with_the_known_ones() -> None:
    with pytest.raises(CorruptState, match="'tiny' has no tap late; it has early, features"):
        SPEC.columns(("late",))
    with pytest.raises(CorruptState, match="none asked"):
        SPEC.columns(())


def test_the_reference_pictures_never_change() -> None:
    """Stored reference rows belong to exactly these pixels."""
    pixels = reference_pixels(TINY_IMAGE)
    assert pixels.shape == (8, 32, 32, 3)
    assert pixels.dtype == np.uint8
    assert len({picture.tobytes() for picture in pixels}) == 8
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "46eb524d12672f3f"
