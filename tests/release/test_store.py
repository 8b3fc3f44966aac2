"""Publishing, loading and damage: what stands on the disk, before and after things go wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tests.release.conftest import DRAFT, small_head
from tlserve.core.errors import BadModelName, CorruptState, StoreUnavailable, UnknownVersion
from tlserve.core.head import Head
from tlserve.release import LiveState, Manifest, VersionStore, promoted

Publish = Callable[..., Manifest]


def flowers(tmp_path: Path) -> Path:
    return tmp_path / "models" / "flowers"


def assert_same_head(one: Head, other: Head) -> None:
    assert (one.labels, one.taps, one.link, one.temperature) == (
        other.labels,
        other.taps,
        other.link,
        other.temperature,
    )
    assert len(one.layers) == len(other.layers)
    for a, b in zip(one.layers, other.layers, strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)
        np.testing.assert_array_equal(a.bias, b.bias)
    assert (one.novelty is None) == (other.novelty is None)
    if one.novelty is not None and other.novelty is not None:
        for name in ("mean", "scale", "centroids", "distances", "ranks"):
            np.testing.assert_array_equal(getattr(one.novelty, name), getattr(other.novelty, name))
        assert one.novelty.doubt_weight == other.novelty.doubt_weight
        assert one.novelty.sure_at == other.novelty.sure_at


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("novelty", [True, False])
def test_what_is_published_is_what_is_loaded(store: VersionStore, n_layers: int, novelty: bool) -> None:
    head = small_head(n_layers=n_layers, novelty=novelty)
    manifest = store.publish("flowers", head, DRAFT, {"C": 0.1, "note": "Ä", "file": "\udcff.jpg"})
    version = store.load("flowers", 1)
    assert version.manifest == manifest
    assert (manifest.version, manifest.n_images, manifest.labels) == (1, 12, head.labels)
    assert manifest.taps == ("stage3", "features")
    assert version.report == store.report("flowers", 1) == {"C": 0.1, "note": "Ä", "file": "\udcff.jpg"}
    assert_same_head(version.head, head)


def test_a_version_is_exactly_three_files(publish: Publish, tmp_path: Path) -> None:
    publish("a")
    assert sorted(p.name for p in flowers(tmp_path).iterdir()) == ["1"]
    names = sorted(p.name for p in (flowers(tmp_path) / "1").iterdir())
    assert names == ["head.safetensors", "manifest.json", "report.json"]


def test_equal_heads_give_equal_bytes(publish: Publish) -> None:
    assert publish("a").head_sha256 == publish("b").head_sha256


def test_numbers_count_up_per_model(store: VersionStore, publish: Publish) -> None:
    assert [publish("a").version, publish("b").version, publish("c", model="birds").version] == [1, 2, 1]
    assert store.models() == ["birds", "flowers"]
    assert store.versions("flowers") == [1, 2]
    assert store.versions("unheard") == []


def test_a_job_publishes_once(store: VersionStore, publish: Publish) -> None:
    first = publish("a")
    publish("b")
    assert publish("a") == first
    assert store.versions("flowers") == [1, 2]


def test_a_number_is_never_used_again(store: VersionStore, publish: Publish, tmp_path: Path) -> None:
    state = LiveState()
    for job in ("a", "b", "c"):
        number = publish(job).version
        state = promoted(state, number, 1.0, "better")
        store.write_live("flowers", state)
    shutil.rmtree(flowers(tmp_path) / "3")
    assert publish("d").version == 4
    store.write_live("flowers", promoted(state, 4, 2.0, "better"))
    store.retire("flowers", keep_versions=1)
    assert publish("e").version == 5


def test_a_crash_while_publishing_leaves_nothing_a_reader_sees(
    store: VersionStore, publish: Publish, tmp_path: Path
) -> None:
    """The writer is killed between writing the files and the rename."""
    publish("a")
    script = """
import os, sys
from pathlib import Path
from tests.release.conftest import DRAFT, small_head
from tlserve.release import VersionStore

def die(event, args):
    if event == "os.rename":
        os._exit(9)

sys.addaudithook(die)
VersionStore(Path(sys.argv[1])).publish("flowers", small_head(), DRAFT, {})
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "models")], check=False)
    assert done.returncode == 9
    leftovers = [p for p in flowers(tmp_path).iterdir() if p.name != "1"]
    assert len(leftovers) == 1
    assert (store.models(), store.versions("flowers"), len(store.rows("flowers"))) == (["flowers"], [1], 1)
    assert leftovers[0].exists(), "readers leave the writer's folders alone"
    assert publish("b").version == 2
    assert not leftovers[0].exists()


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(publish: Publish, tmp_path: Path) -> None:
    publish("a")
    (flowers(tmp_path) / "2").write_text("in the way")
    with pytest.raises(StoreUnavailable, match=r"cannot publish .*/flowers/2"):
        publish("b")
    assert sorted(p.name for p in flowers(tmp_path).iterdir()) == ["1", "2"]


def test_a_head_with_nan_is_refused(store: VersionStore) -> None:
    head = small_head()
    head.layers[0].weight[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"layers\.0\.weight holds NaN"):
        store.publish("flowers", head, DRAFT, {})
    assert store.versions("flowers") == []


def test_names_that_are_no_version_are_ignored(store: VersionStore, publish: Publish, tmp_path: Path) -> None:
    publish("a")
    for name in ("01", "x", "2.bak", "-3", "٣"):
        (flowers(tmp_path) / name).mkdir()
    (tmp_path / "models" / "not a model").mkdir()
    (tmp_path / "models" / "empty").mkdir()
    assert store.versions("flowers") == [1]
    assert store.models() == ["flowers"]


def test_a_model_name_cannot_leave_the_folder(store: VersionStore) -> None:
    with pytest.raises(BadModelName):
        store.versions("../elsewhere")


def test_an_unknown_version_names_the_known_ones(store: VersionStore, publish: Publish) -> None:
    publish("a")
    for ask in (store.manifest, store.load, store.report):
        with pytest.raises(UnknownVersion, match="no version '7'; versions: 1"):
            ask("flowers", 7)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("head.safetensors", lambda data: data[:-4]),
        ("head.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("head.safetensors", lambda data: b""),
        ("head.safetensors", None),
        ("manifest.json", lambda data: b""),
        ("manifest.json", lambda data: b"[]"),
        ("manifest.json", lambda data: b"\xff\xfe"),
        ("manifest.json", lambda data: data[: len(data) // 2]),
        ("manifest.json", lambda data: data.replace(b'"version": 1', b'"version": "1"')),
        ("manifest.json", lambda data: data.replace(b'"version": 1', b'"version": 2')),
        ("manifest.json", lambda data: data.replace(b'"model": "flowers"', b'"model": "birds"')),
        ("manifest.json", lambda data: data.replace(b'"format": 1', b'"format": 2')),
        ("manifest.json", lambda data: data.replace(b'"taps"', b'"tops"')),
        ("manifest.json", None),
    ],
)
def test_damage_is_named_with_its_path_and_what_to_do(
    store: VersionStore, publish: Publish, tmp_path: Path, file: str, damage: Callable[[bytes], bytes] | None
) -> None:
    publish("a")
    path = flowers(tmp_path) / "1" / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptState, match="restore it from a backup, or delete") as caught:
        store.load("flowers", 1)
    assert str(path) in str(caught.value)


def test_a_head_that_fits_its_digest_but_not_its_form_is_corrupt(
    store: VersionStore, publish: Publish, tmp_path: Path
) -> None:
    old = publish("a").head_sha256
    folder = flowers(tmp_path) / "1"
    (folder / "head.safetensors").write_bytes(b"nothing of the kind")
    digest = hashlib.sha256(b"nothing of the kind").hexdigest()
    manifest = (folder / "manifest.json").read_text().replace(old, digest)
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(CorruptState):
        store.load("flowers", 1)


def test_a_damaged_report_does_not_keep_a_version_from_answering(
    store: VersionStore, publish: Publish, tmp_path: Path
) -> None:
    publish("a")
    (flowers(tmp_path) / "1" / "report.json").write_text("{")
    assert "damaged" in store.load("flowers", 1).report["error"]
    with pytest.raises(CorruptState):
        store.report("flowers", 1)


def test_one_damaged_version_hides_no_other(store: VersionStore, publish: Publish, tmp_path: Path) -> None:
    publish("a")
    publish("b")
    (flowers(tmp_path) / "1" / "manifest.json").write_text("{")
    damaged, sound = store.rows("flowers")
    assert (damaged.version, damaged.images) == (1, 0)
    assert "manifest.json is damaged" in damaged.reason
    assert sound.images == 12
    assert publish("c").version == 3


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b"\xff", b'{"format": 2}', b'{"format":1,"live":"x","previous":null}']
)
def test_a_damaged_live_file_is_named_with_what_to_do(
    store: VersionStore, publish: Publish, tmp_path: Path, content: bytes
) -> None:
    publish("a")
    (flowers(tmp_path) / "LIVE").write_bytes(content)
    with pytest.raises(CorruptState, match=r"LIVE .*delete it.*tlserve promote flowers N \(published: 1\)"):
        store.live("flowers")


def test_live_survives_a_round_trip(store: VersionStore, publish: Publish, tmp_path: Path) -> None:
    publish("a")
    assert store.live("flowers") == LiveState()
    state = promoted(LiveState(), 1, 5.5, "first", drop_to_live_seconds=2.5)
    store.write_live("flowers", state)
    assert store.live("flowers") == state
    assert sorted(p.name for p in flowers(tmp_path).iterdir()) == ["1", "LIVE"]


def test_live_cannot_name_a_version_that_is_not_there(store: VersionStore, publish: Publish) -> None:
    publish("a")
    with pytest.raises(UnknownVersion):
        store.write_live("flowers", LiveState(live=2))
    assert store.live("flowers") == LiveState()


def test_rows_have_exactly_the_fields_of_the_listing(store: VersionStore, publish: Publish) -> None:
    publish("a")
    publish("b", verdict="hold", reason="worse", accuracy=None)
    publish("c", reason="better")
    state = promoted(LiveState(), 1, 1.0, "first version", drop_to_live_seconds=3.25)
    state = promoted(state, 3, 2.0, "promoted by a person")
    store.write_live("flowers", replace(state, pinned=(2,)))
    rows = [asdict(row) for row in store.rows("flowers")]
    assert rows[0] == {
        "version": 1,
        "state": "previous",
        "images": 12,
        "classes": ("Gänse blümchen", "roses"),
        "accuracy": 0.9,
        "backbone": "nano",
        "created": "2026-09-21T14:13:20Z",
        "reason": "first version",
        "drop_to_live_seconds": 3.25,
        "pinned": False,
        "instant": False,
        "timeline": {"fitted": 0.25},
    }
    assert [row["state"] for row in rows] == ["previous", "held", "live"]
    assert [row["reason"] for row in rows] == ["first version", "worse", "better; promoted by a person"]
    assert [row["pinned"] for row in rows] == [False, True, False]
    assert json.loads(json.dumps(rows))[0]["classes"] == ["Gänse blümchen", "roses"]


def test_retired_versions_are_gone_whole(store: VersionStore, publish: Publish, tmp_path: Path) -> None:
    state = LiveState()
    for job in "abcde":
        state = promoted(state, publish(job).version, 1.0, "better")
        store.write_live("flowers", state)
    assert store.retire("flowers", keep_versions=2, leased=[1]) == [2, 3]
    assert sorted(p.name for p in flowers(tmp_path).iterdir()) == ["1", "4", "5", "LIVE"]
    assert store.retire("flowers", keep_versions=2) == [1]


def test_the_store_loads_none_of_the_heavy_libraries() -> None:
    script = (
        "import sys, tlserve.release; "
        "print([m for m in ('onnx', 'onnxruntime', 'torch', 'sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
