"""A reduced build is believed where it gives its reference rows, and refused in clear words elsewhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support_build import tiny_build, tiny_info
from tlserve.core.errors import BuildMismatch
from tlserve.runtime import (
    REFERENCE_FILE,
    BackboneSession,
    BuildSpec,
    Processor,
    choose_device,
    read_build_spec,
    reference_tolerance,
    write_build_spec,
)
from tlserve.runtime.reference import mismatch_advice

CPU = choose_device("cpu")
EARLY, FEATURES = slice(0, 8), slice(8, 24)
OLD = Processor("Old 10", saturates=True)
NEW = Processor("Fast 9000", ("avx512_vnni",), saturates=False)


def build_at(folder: Path, precision: str) -> Path:
    """The tiny build, said to be at this precision and made on another machine."""
    tiny_build(folder)
    spec = BuildSpec.of(tiny_info(), "tests", precision)
    write_build_spec(folder, dataclasses.replace(spec, made_on="Fast 9000 (avx512_vnni)"))
    return folder


def make_differ(folder: Path, columns: slice, by: float) -> None:
    rows = np.load(folder / REFERENCE_FILE)
    rows[:, columns] *= 1 + by
    np.save(folder / REFERENCE_FILE, rows)


@pytest.mark.parametrize(
    ("precision", "columns", "tolerated"),
    [
        ("fp32", EARLY, 0.01),
        ("fp32", FEATURES, 0.01),
        ("int8", EARLY, 0.01),
        ("int8", FEATURES, 0.06),
        ("fp16", EARLY, 0.05),
        ("fp16", FEATURES, 0.05),
    ],
)
def test_each_precision_may_differ_by_what_its_rounding_explains(
    precision: str, columns: slice, tolerated: float, tmp_path: Path
) -> None:
    fine, wrong = build_at(tmp_path / "fine", precision), build_at(tmp_path / "wrong", precision)
    make_differ(fine, columns, tolerated * 0.9)
    BackboneSession.open(fine, CPU).close()
    make_differ(wrong, columns, tolerated * 1.2)
    with pytest.raises(BuildMismatch):
        BackboneSession.open(wrong, CPU)


def test_a_single_tap_of_an_int8_build_is_a_deep_one() -> None:
    info = dataclasses.replace(tiny_info(), taps=tiny_info().taps[1:])
    assert reference_tolerance(BuildSpec.of(info, "tests", "int8"), "features") == 0.06


def test_a_refused_int8_build_says_what_it_is_where_it_was_made_and_what_to_do(tmp_path: Path) -> None:
    folder = build_at(tmp_path / "build", "int8")
    make_differ(folder, FEATURES, 0.3)
    with pytest.raises(BuildMismatch) as caught:
        BackboneSession.open(folder, CPU)
    text = str(caught.value)
    assert "'tiny' in int8 on cpu does not reproduce its reference rows: tap 'features' differs" in text
    assert "made on Fast 9000 (avx512_vnni)" in text
    assert 'set precision = "fp32" here and retrain' in text
    assert "delete" not in text


def test_the_words_name_what_a_processor_lacks_only_where_that_is_known(tmp_path: Path) -> None:
    spec = read_build_spec(build_at(tmp_path / "build", "int8"))
    assert "Old 10 has no VNNI (nor AMX), without which 8-bit sums saturate" in mismatch_advice(spec, OLD)
    assert "this is Fast 9000 (avx512_vnni)" in mismatch_advice(spec, NEW)
    made_here = dataclasses.replace(spec, made_on=OLD.describe())
    assert "saturate" not in mismatch_advice(made_here, OLD)
    half = dataclasses.replace(spec, precision="fp16")
    assert "saturate" not in mismatch_advice(half, OLD)
    unknown = dataclasses.replace(spec, made_on="")
    assert "made on another processor" in mismatch_advice(unknown, NEW)


def test_an_fp32_build_is_made_anew_as_ever(tmp_path: Path) -> None:
    folder = tiny_build(tmp_path / "build")
    make_differ(folder, FEATURES, 0.3)
    with pytest.raises(BuildMismatch, match=f"delete {folder} to build it anew"):
        BackboneSession.open(folder, CPU)
    assert "made_on" in json.loads((folder / "spec.json").read_text())
