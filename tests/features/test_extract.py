from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support_build import tiny_build
from tlserve.core.augmentation import policy, view_key
from tlserve.core.errors import NonFiniteRow
from tlserve.features import ExtractionProgress, Extractor, FeatureStore
from tlserve.images import ImageDecoder, ViewMaker
from tlserve.runtime import BackboneSession, choose_device


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> BackboneSession:
    return BackboneSession.open(tiny_build(tmp_path_factory.mktemp("build")), choose_device("cpu"), threads=1)


@pytest.fixture
def store(tmp_path: Path, session: BackboneSession) -> Iterator[FeatureStore]:
    with FeatureStore(tmp_path / "features", row_width=session.spec.row_width) as opened:
        yield opened


def photos(folder: Path, n: int) -> list[tuple[str, Path]]:
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(3)
    jobs = []
    for index in range(n):
        path = folder / f"{index}.png"
        Image.fromarray(draw.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
        jobs.append((hashlib.sha256(path.read_bytes()).hexdigest(), path))
    return jobs


@pytest.mark.parametrize("workers", [1, 3, None])
def test_every_image_gets_the_row_that_serving_would_give_it(
    tmp_path: Path, session: BackboneSession, store: FeatureStore, workers: int | None
) -> None:
    jobs = photos(tmp_path / "photos", 37)
    result = Extractor(session, store, batch_size=8, decode_workers=workers).extract(jobs)
    assert (result.n_passed, result.bad, result.cancelled) == (37, {}, False)
    decoder = ImageDecoder(session.spec.image)
    served = session.rows(np.stack([decoder.decode(path.read_bytes()) for _, path in jobs]))
    np.testing.assert_allclose(store.read([digest for digest, _ in jobs]), served, rtol=2e-3, atol=1e-4)


def test_progress_counts_up_to_the_total(
    tmp_path: Path, session: BackboneSession, store: FeatureStore
) -> None:
    seen: list[ExtractionProgress] = []
    Extractor(session, store, batch_size=4).extract(photos(tmp_path / "photos", 21), seen.append)
    counts = [progress.done for progress in seen]
    assert counts == sorted(counts)
    assert (counts[-1], seen[-1].total, seen[-1].seconds_left) == (21, 21, 0)
    assert all(progress.images_per_second > 0 for progress in seen)


def test_one_bad_image_spoils_nothing_else(
    tmp_path: Path, session: BackboneSession, store: FeatureStore
) -> None:
    jobs = photos(tmp_path / "photos", 6)
    broken = jobs[2][1].read_bytes()[:200]
    jobs[2][1].write_bytes(broken)
    jobs[2] = (hashlib.sha256(broken).hexdigest(), jobs[2][1])
    jobs[3][1].write_bytes(jobs[4][1].read_bytes())
    jobs[5][1].unlink()
    result = Extractor(session, store).extract(jobs)
    assert result.n_passed == 3
    assert (
        store.missing([digest for digest, _ in jobs])
        == [jobs[i][0] for i in (2, 3, 5)]
        == [*sorted(result.bad, key=[digest for digest, _ in jobs].index)]
    )
    assert "truncated" in result.bad[jobs[2][0]]
    assert "changed while reading" in result.bad[jobs[3][0]]
    assert "cannot be read" in result.bad[jobs[5][0]]


def test_no_images_is_a_result_too(session: BackboneSession, store: FeatureStore) -> None:
    result = Extractor(session, store).extract([])
    assert (result.n_passed, result.bad) == (0, {})


def test_a_cancelled_extraction_keeps_what_it_has(
    tmp_path: Path, session: BackboneSession, store: FeatureStore
) -> None:
    jobs = photos(tmp_path / "photos", 40)
    seen: list[ExtractionProgress] = []
    extractor = Extractor(session, store, batch_size=4)
    result = extractor.extract(jobs, seen.append, cancelled=lambda: seen[-1].done >= 12)
    assert result.cancelled
    assert result.n_passed == len(store) == 12
    rest = [job for job in jobs if store.missing([job[0]])]
    assert extractor.extract(rest).n_passed == 28


def test_features_beyond_float16_survive(tmp_path: Path) -> None:
    session = BackboneSession.open(tiny_build(tmp_path / "build", scale=1e7), choose_device("cpu"), threads=1)
    jobs = photos(tmp_path / "photos", 3)
    with FeatureStore(tmp_path / "features", row_width=session.spec.row_width) as store:
        Extractor(session, store).extract(jobs)
        kept = store.read([digest for digest, _ in jobs])
    decoder = ImageDecoder(session.spec.image)
    served = session.rows(np.stack([decoder.decode(path.read_bytes()) for _, path in jobs]))
    assert np.isfinite(kept).all()
    assert kept.max() > 65504
    np.testing.assert_allclose(kept, served, rtol=1e-5)


def test_a_backbone_without_finite_rows_is_an_error(tmp_path: Path) -> None:
    build = tiny_build(tmp_path / "build", scale=float("inf"))
    session = BackboneSession.open(build, choose_device("cpu"), threads=1, check=False)
    with (
        FeatureStore(tmp_path / "features", row_width=session.spec.row_width) as store,
        pytest.raises(NonFiniteRow, match="'tiny'"),
    ):
        Extractor(session, store).extract(photos(tmp_path / "photos", 3))


def test_each_view_gets_the_row_of_its_pixels_and_is_extracted_once(
    tmp_path: Path, session: BackboneSession, store: FeatureStore
) -> None:
    jobs, standard = photos(tmp_path / "photos", 11), policy("standard")
    extractor = Extractor(session, store, batch_size=4)
    result = extractor.extract_views(jobs, standard, 3)
    assert (result.n_passed, result.bad, result.cancelled) == (33, {}, False)
    maker = ViewMaker(session.spec.image, standard)
    for digest, path in jobs:
        served = session.rows(np.stack(maker.views(path.read_bytes(), digest, [1, 2, 3])))
        kept = store.read([view_key(digest, standard, index) for index in (1, 2, 3)])
        np.testing.assert_allclose(kept, served, rtol=2e-3, atol=1e-4)
    assert extractor.extract_views(jobs, standard, 3).n_passed == 0
    assert extractor.extract_views(jobs, standard, 2).n_passed == 0
    assert extractor.extract_views(jobs, standard, 5).n_passed == 22
    assert len(store) == 55


def test_views_leave_the_rows_of_the_pictures_alone(
    tmp_path: Path, session: BackboneSession, store: FeatureStore
) -> None:
    jobs = photos(tmp_path / "photos", 5)
    extractor = Extractor(session, store)
    extractor.extract_views(jobs, policy("light"), 2)
    assert store.missing([digest for digest, _ in jobs]) == [digest for digest, _ in jobs]
    extractor.extract(jobs)
    extractor.extract_views(jobs, policy("heavy"), 1)
    assert len(store) == 5 * (2 + 1 + 1)


def test_no_more_views_are_made_than_differ(
    tmp_path: Path, session: BackboneSession, store: FeatureStore
) -> None:
    jobs = photos(tmp_path / "photos", 4)
    extractor = Extractor(session, store)
    assert extractor.extract_views(jobs, policy("none"), 3).n_passed == 0
    assert extractor.extract_views(jobs, policy("flip"), 3).n_passed == 4


def test_progress_counts_views_those_of_bad_images_too(
    tmp_path: Path, session: BackboneSession, store: FeatureStore
) -> None:
    jobs = photos(tmp_path / "photos", 9)
    jobs[4][1].write_bytes(jobs[5][1].read_bytes())
    jobs[7][1].unlink()
    extractor, light = Extractor(session, store, batch_size=4), policy("light")
    extractor.extract_views(jobs[:1], light, 1)
    seen: list[ExtractionProgress] = []
    result = extractor.extract_views(jobs, light, 3, seen.append)
    counts = [progress.done for progress in seen]
    assert counts == sorted(counts)
    assert (counts[-1], seen[-1].total, seen[-1].seconds_left) == (26, 26, 0)
    assert result.n_passed == 20
    assert "changed while reading" in result.bad[jobs[4][0]]
    assert "cannot be read" in result.bad[jobs[7][0]]
    assert len(result.bad) == 2


def test_more_views_than_a_batch_holds_are_extracted_all_the_same(
    tmp_path: Path, session: BackboneSession, store: FeatureStore
) -> None:
    jobs, standard = photos(tmp_path / "photos", 2), policy("standard")
    assert Extractor(session, store, batch_size=3).extract_views(jobs, standard, 10).n_passed == 20
    digest, path = jobs[1]
    last = ViewMaker(session.spec.image, standard).views(path.read_bytes(), digest, [10])
    kept = store.read([view_key(digest, standard, 10)])
    np.testing.assert_allclose(kept, session.rows(np.stack(last)), rtol=2e-3, atol=1e-4)


def test_cancelled_views_go_on_where_they_stopped(
    tmp_path: Path, session: BackboneSession, store: FeatureStore
) -> None:
    jobs, light = photos(tmp_path / "photos", 20), policy("light")
    seen: list[ExtractionProgress] = []
    extractor = Extractor(session, store, batch_size=4)
    result = extractor.extract_views(jobs, light, 2, seen.append, cancelled=lambda: seen[-1].done >= 12)
    assert result.cancelled
    assert result.n_passed == len(store) == 12
    rest = extractor.extract_views(jobs, light, 2)
    assert (rest.n_passed, rest.cancelled) == (28, False)


def test_views_without_finite_rows_are_an_error_too(tmp_path: Path) -> None:
    build = tiny_build(tmp_path / "build", scale=float("inf"))
    session = BackboneSession.open(build, choose_device("cpu"), threads=1, check=False)
    with (
        FeatureStore(tmp_path / "features", row_width=session.spec.row_width) as store,
        pytest.raises(NonFiniteRow, match=r"'tiny'.*3 image"),
    ):
        Extractor(session, store).extract_views(photos(tmp_path / "photos", 3), policy("light"), 2)
