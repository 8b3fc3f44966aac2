from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support_build import TINY_IMAGE, tiny_info
from tlserve.core.errors import CorruptState
from tlserve.plugin_api import Tap
from tlserve.runtime import (
    SPEC_FILE,
    BuildSpec,
    build_digest,
    read_build_spec,
    reference_pixels,
    write_build_spec,
)

SPEC = BuildSpec.of(tiny_info(), plugin="tests")


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
