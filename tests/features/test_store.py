from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tlserve.core.augmentation import policy, view_key
from tlserve.core.errors import CorruptState, NonFiniteRow, StateLocked, StoreUnavailable
from tlserve.features import FeatureStore

WIDTH = 40
ROW_BYTES = WIDTH * 2
HEADER_BYTES = 64


def digests(n: int, first: int = 0) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(first, first + n)]


def rows(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Exact in float16, so that what comes back can be compared for equality."""
    return np.random.default_rng(seed).integers(-500, 500, (n, WIDTH)).astype(np.float32) / 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def store(folder: Path) -> Iterator[FeatureStore]:
    with FeatureStore(folder, row_width=WIDTH) as opened:
        yield opened


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


def test_rows_come_back_in_the_order_asked(store: FeatureStore) -> None:
    names, values = digests(50), rows(50)
    store.append(names[:20], values[:20])
    store.append(names[20:], values[20:])
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(store.read([names[i] for i in order]), values[order])
    np.testing.assert_array_equal(store.read([names[7], names[7]]), values[[7, 7]])


@pytest.mark.parametrize("columns", [slice(3, 9), np.array([30, 2, 3]), slice(None)])
def test_only_the_columns_asked_for_are_read(
    store: FeatureStore, columns: slice | npt.NDArray[np.intp]
) -> None:
    store.append(digests(5), rows(5))
    np.testing.assert_array_equal(store.read(digests(5), columns), rows(5)[:, columns])


def test_reading_nothing_gives_nothing(store: FeatureStore) -> None:
    assert store.read([]).shape == (0, WIDTH)
    assert store.read([], slice(0, 4)).shape == (0, 4)


def test_missing_keeps_the_order_and_drops_repetitions(store: FeatureStore) -> None:
    a, b, c, d = digests(4)
    store.append([b], rows(1))
    assert store.missing([d, a, d, b, c]) == [d, a, c]


def test_keys_that_are_no_digests_work_too(store: FeatureStore) -> None:
    names = ["a" * 64, "A" * 64, "view-3:" + "a" * 64, "short"]
    store.append(names, rows(4))
    np.testing.assert_array_equal(store.read(names), rows(4))
    assert store.keys() == sorted(names)


def test_a_digest_keeps_its_first_row(store: FeatureStore) -> None:
    a, b = digests(2)
    store.append([a, a], rows(2))
    store.append([a, b], rows(2, seed=5))
    np.testing.assert_array_equal(store.read([a, b]), np.stack([rows(2)[0], rows(2, seed=5)[1]]))
    assert len(store) == 2


def test_rows_survive_closing(folder: Path) -> None:
    with FeatureStore(folder, row_width=WIDTH) as store:
        store.append(digests(9), rows(9))
    with FeatureStore(folder, row_width=WIDTH) as store:
        np.testing.assert_array_equal(store.read(digests(9)), rows(9))
        assert store.recovery.dropped_rows == store.recovery.cut_bytes == store.recovery.removed_files == 0


def test_rows_outside_the_range_of_float16_keep_their_values(store: FeatureStore, folder: Path) -> None:
    values = rows(4)
    values[1, 3] = 1e6
    values[2] = 1e-7
    values[3] = 0
    store.append(digests(4), values)
    np.testing.assert_allclose(store.read(digests(4)), values, rtol=1e-6)
    assert len(segments(folder)) == 2
    np.testing.assert_allclose(store.read(digests(4)[::-1], slice(2, 5)), values[::-1, 2:5], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused_with_its_batch(store: FeatureStore, value: float) -> None:
    values = rows(3)
    values[1, 0] = value
    with pytest.raises(NonFiniteRow, match=digests(3)[1]):
        store.append(digests(3), values)
    assert store.missing(digests(3)) == digests(3)


def test_a_full_segment_is_followed_by_another(folder: Path) -> None:
    with FeatureStore(folder, row_width=WIDTH, segment_bytes=10 * ROW_BYTES) as store:
        for start in range(0, 40, 4):
            store.append(digests(4, start), rows(40)[start : start + 4])
        assert len(segments(folder)) == 4
        np.testing.assert_array_equal(store.read(digests(40)), rows(40))


def test_a_second_opener_is_kept_out(store: FeatureStore, folder: Path) -> None:
    with pytest.raises(StateLocked, match="another process"):
        FeatureStore(folder, row_width=WIDTH)
    store.close()
    FeatureStore(folder, row_width=WIDTH).close()


def test_asking_for_a_row_that_is_not_there_names_it(store: FeatureStore) -> None:
    with pytest.raises(CorruptState, match=digests(1)[0]):
        store.read(digests(1))


def test_an_uncommitted_tail_is_cut(folder: Path) -> None:
    with FeatureStore(folder, row_width=WIDTH) as store:
        store.append(digests(5), rows(5))
    (segment,) = segments(folder)
    whole = segment.read_bytes()
    segment.write_bytes(whole + b"x" * 100)
    with FeatureStore(folder, row_width=WIDTH) as store:
        assert store.recovery.cut_bytes == 100
        assert segment.read_bytes() == whole
        store.append(digests(2, 5), rows(2, seed=2))
        np.testing.assert_array_equal(store.read(digests(7)), np.concatenate([rows(5), rows(2, seed=2)]))


def test_rows_whose_bytes_are_gone_are_missing_again(folder: Path) -> None:
    with FeatureStore(folder, row_width=WIDTH) as store:
        store.append(digests(5), rows(5))
    (segment,) = segments(folder)
    os.truncate(segment, HEADER_BYTES + 3 * ROW_BYTES + 7)
    with FeatureStore(folder, row_width=WIDTH) as store:
        assert store.recovery.dropped_rows == 2
        assert store.missing(digests(5)) == digests(5)[3:]
        np.testing.assert_array_equal(store.read(digests(3)), rows(5)[:3])


@pytest.mark.parametrize("damage", ["gone", "empty", "overwritten"])
def test_a_lost_segment_loses_its_rows_and_no_others(folder: Path, damage: str) -> None:
    with FeatureStore(folder, row_width=WIDTH, segment_bytes=ROW_BYTES) as store:
        store.append(digests(2), rows(2))
        store.append(digests(2, 2), rows(4)[2:])
    first = segments(folder)[0]
    if damage == "gone":
        first.unlink()
    else:
        first.write_bytes(b"" if damage == "empty" else b"#" * first.stat().st_size)
    with FeatureStore(folder, row_width=WIDTH) as store:
        assert store.recovery.dropped_rows == 2
        assert store.missing(digests(4)) == digests(2)
        np.testing.assert_array_equal(store.read(digests(2, 2)), rows(4)[2:])
        store.append(digests(2), rows(2))
        np.testing.assert_array_equal(store.read(digests(4)), rows(4))


def test_a_flipped_bit_is_found_when_its_row_is_read(folder: Path) -> None:
    with FeatureStore(folder, row_width=WIDTH) as store:
        store.append(digests(5), rows(5))
    (segment,) = segments(folder)
    content = bytearray(segment.read_bytes())
    content[HEADER_BYTES + 2 * ROW_BYTES + 11] ^= 4
    segment.write_bytes(content)
    with FeatureStore(folder, row_width=WIDTH) as store:
        np.testing.assert_array_equal(store.read(digests(2)), rows(5)[:2])
        with pytest.raises(CorruptState, match=digests(5)[2]):
            store.read(digests(5))
        assert store.missing(digests(5)) == [digests(5)[2]]


@pytest.mark.parametrize("content", [b"", b"this is no database at all" * 200])
def test_a_damaged_index_is_replaced_and_its_segments_removed(folder: Path, content: bytes) -> None:
    with FeatureStore(folder, row_width=WIDTH) as store:
        store.append(digests(5), rows(5))
    for path in folder.glob("index.sqlite3*"):
        path.unlink()
    (folder / "index.sqlite3").write_bytes(content)
    with FeatureStore(folder, row_width=WIDTH) as store:
        assert store.recovery.removed_files == 1
        assert store.missing(digests(5)) == digests(5)
        store.append(digests(5), rows(5))
        np.testing.assert_array_equal(store.read(digests(5)), rows(5))


def _append_until_killed(folder: Path, pipe: Connection) -> None:
    with FeatureStore(folder, row_width=WIDTH, segment_bytes=64 * ROW_BYTES) as store:
        for start in range(0, 1_000_000, 8):
            store.append(digests(8, start), rows(8, seed=start))
            pipe.send(start + 8)


def test_a_killed_writer_loses_nothing_that_was_appended(folder: Path) -> None:
    receiving, sending = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_append_until_killed, args=(folder, sending))
    writer.start()
    sending.close()
    done = 0
    while done < 200 and receiving.poll(60):
        done = receiving.recv()
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(60)
    assert done >= 200
    with FeatureStore(folder, row_width=WIDTH) as store:
        assert store.missing(digests(done)) == []
        expected = np.concatenate([rows(8, seed=start) for start in range(0, done, 8)])
        np.testing.assert_array_equal(store.read(digests(done)), expected)


def test_compaction_frees_what_nobody_needs(folder: Path) -> None:
    with FeatureStore(folder, row_width=WIDTH, segment_bytes=10 * ROW_BYTES) as store:
        values = rows(60)
        values[::7, 0] = 1e6
        for start in range(0, 60, 6):
            store.append(digests(6, start), values[start : start + 6])
        kept = digests(60)[::3]
        report = store.compact(kept)
        assert report.compacted
        assert (report.rows_before, report.rows_after) == (60, 20)
        assert report.bytes_after < report.bytes_before / 2
        assert store.missing(digests(60)) == [d for d in digests(60) if d not in kept]
        np.testing.assert_array_equal(store.read(kept), values[::3])
        store.append(digests(3, 100), rows(3))
    with FeatureStore(folder, row_width=WIDTH) as store:
        assert store.recovery.removed_files == 0
        np.testing.assert_array_equal(
            store.read([*kept, *digests(3, 100)]), np.concatenate([values[::3], rows(3)])
        )


def test_compaction_keeps_the_views_of_wanted_images_and_drops_those_of_others(folder: Path) -> None:
    ways = [policy("light"), policy(["rotate=10"])]
    keys = {
        digest: [digest, *(view_key(digest, way, index) for way in ways for index in (1, 2, 12))]
        for digest in digests(12)
    }
    names = [name for some in keys.values() for name in some]
    with FeatureStore(folder, row_width=WIDTH) as store:
        store.append(names, rows(84))
        assert store.compact(digests(4)).compacted
        assert sorted(store.keys()) == sorted(name for digest in digests(4) for name in keys[digest])
        np.testing.assert_array_equal(store.read(names[:28]), rows(84)[:28])
    with FeatureStore(folder, row_width=WIDTH) as store:
        np.testing.assert_array_equal(store.read(names[:28]), rows(84)[:28])


def test_compaction_waits_until_it_is_worth_it(store: FeatureStore) -> None:
    store.append(digests(10), rows(10))
    report = store.compact(digests(6))
    assert not report.compacted
    assert store.missing(digests(10)) == []


def test_forgotten_rows_are_freed_by_compaction(store: FeatureStore) -> None:
    store.append(digests(10), rows(10))
    assert store.forget([*digests(8), "unknown"]) == 8
    assert store.missing(digests(10)) == digests(8)
    assert store.compact(digests(10)).compacted
    np.testing.assert_array_equal(store.read(digests(2, 8)), rows(10)[8:])
    assert store.compact([]).compacted
    assert store.size_bytes == 0


def test_arrays_that_were_read_outlive_compaction(store: FeatureStore) -> None:
    store.append(digests(10), rows(10))
    before = store.read(digests(10))
    store.compact([])
    np.testing.assert_array_equal(before, rows(10))


def test_a_disk_that_refuses_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        FeatureStore(tmp_path / "file" / "features", row_width=WIDTH)


def test_a_disk_that_fills_up_leaves_the_store_as_it_was(store: FeatureStore, folder: Path) -> None:
    store.append(digests(5), rows(5))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreUnavailable):
            store.append(digests(3000, 5), rows(3000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.missing(digests(3005)) == digests(3000, 5)
    store.append(digests(3, 5), rows(3, seed=9))
    np.testing.assert_array_equal(store.read(digests(8)), np.concatenate([rows(5), rows(3, seed=9)]))


def test_rows_of_the_wrong_shape_are_a_mistake_of_the_caller(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="width 40"):
        store.append(digests(2), rows(3))
