"""A head's bytes: as small as nothing is lost by, and readable as long as versions live."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.release.conftest import small_head
from tlserve.core.head import Head, Novelty, novelty_scores
from tlserve.release.head_file import head_from_bytes, head_to_bytes


def block_of(head: Head) -> Novelty:
    assert head.novelty is not None
    return head.novelty


def halves(block: Novelty) -> Novelty:
    return replace(block, centroids=block.centroids.astype(np.float16).astype(np.float32))


def test_centroids_that_are_halves_take_two_bytes_each() -> None:
    head = small_head()
    head = replace(head, novelty=halves(block_of(head)))
    tensors = load(head_to_bytes(head))
    assert tensors["novelty.centroids"].dtype == np.float16
    assert tensors["novelty.mean"].dtype == tensors["layers.0.weight"].dtype == np.float32
    back = block_of(head_from_bytes(head_to_bytes(head)))
    assert back.centroids.dtype == np.float32
    np.testing.assert_array_equal(back.centroids, block_of(head).centroids)


@pytest.mark.parametrize("factor", [1.0, 1e6])
def test_centroids_that_are_not_keep_all_their_bytes(factor: float) -> None:
    head = small_head()
    block = replace(block_of(head), centroids=block_of(head).centroids * np.float32(factor))
    back = block_of(head_from_bytes(head_to_bytes(replace(head, novelty=block))))
    np.testing.assert_array_equal(back.centroids, block.centroids)


def test_a_head_written_before_doubt_counted_is_read_as_it_was_meant() -> None:
    head = small_head()
    block = replace(block_of(head), doubt_weight=0.0, sure_at=0.0)
    rows = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    back = head_from_bytes(as_version_0_1_wrote_it(replace(head, novelty=block)))
    expected = novelty_scores(replace(head, novelty=block), rows)
    np.testing.assert_array_equal(novelty_scores(back, rows), expected)
    assert expected.std() > 0


def as_version_0_1_wrote_it(head: Head) -> bytes:
    layer, block = head.layers[0], block_of(head)
    tensors: dict[str, Any] = {"layers.0.weight": layer.weight}
    tensors["layers.0.bias"] = layer.bias  # type: ignore[union-attr]
    for name in ("mean", "scale", "centroids", "distances", "ranks"):
        tensors[f"novelty.{name}"] = getattr(block, name)
    facts = {
        "format": 1,
        "labels": head.labels,
        "taps": head.taps,
        "n_layers": 1,
        "link": head.link,
        "temperature": head.temperature,
        "novelty": True,
    }
    return bytes(save(tensors, metadata={"tlserve_head": json.dumps(facts)}))
