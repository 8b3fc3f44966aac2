"""The images that stand for all: fixed by digest, spread over classes."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from tests.flow.daemon_process import draw_shapes
from tlserve.core.types import LabelledImage, Split
from tlserve.pipeline.sampling import decoded, spread
from tlserve.plugin_api import ImageSpec


def images(**counts: int) -> list[LabelledImage]:
    return [
        LabelledImage(hashlib.sha256(f"{label}{n}".encode()).hexdigest(), label, Split.TRAIN, f"{label}/{n}")
        for label, count in counts.items()
        for n in range(count)
    ]


def sizes(sample: list[LabelledImage]) -> dict[str, int]:
    return dict(Counter(image.label for image in sample))


def test_each_class_has_its_share_and_four_at_least() -> None:
    found = sizes(spread(images(many=800, some=190, few=6, two=2), 100))
    assert sum(found.values()) == 100
    assert (found["two"], found["few"]) == (2, 4)
    assert found["many"] / found["some"] > 3.5


def test_all_are_taken_where_they_are_few() -> None:
    given = images(a=3, b=9)
    assert set(spread(given, 100)) == set(given)


def test_the_order_they_come_in_does_not_matter_and_a_smaller_sample_is_part_of_a_larger_one() -> None:
    given = images(a=300, b=100, c=7)
    sample = spread(given, 64)
    assert spread(given[::-1], 64) == sample
    assert spread(given, 32) == sample[:32]


def test_of_very_many_classes_some_are_there_whole_and_others_not() -> None:
    given = images(**{f"class{n}": 9 for n in range(100)})
    assert set(sizes(spread(given, 100)).values()) == {4}
    assert set(sizes(spread(given, 100, of_each=1)).values()) == {1}


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    draw_shapes(tmp_path, "disc", 3, seed=1)
    (tmp_path / "broken.png").write_bytes(b"no image")
    spec = ImageSpec(32, 48, None, (0, 0, 0), (1, 1, 1), crop="none")
    files = [*sorted(tmp_path.iterdir()), tmp_path / "gone.png"]
    assert decoded(files, spec, 1_000_000).shape == (3, 32, 48, 3)
    assert decoded(files[:1], spec, 1_000_000).shape == (0, 32, 48, 3)
