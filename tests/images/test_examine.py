from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tlserve.core.errors import BadImage
from tlserve.images import DEFAULT_MAX_PIXELS, examine


def photo(seed: int, size: tuple[int, int] = (300, 200)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_an_examination_tells_size_and_format() -> None:
    seen = examine(encoded(photo(0), "PNG"), DEFAULT_MAX_PIXELS)
    assert (seen.width, seen.height, seen.format) == (300, 200, "PNG")
    assert 0 <= seen.fingerprint < 2**64


def test_a_sideways_photo_has_the_size_and_fingerprint_it_is_shown_with() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = photo(0).transpose(Image.Transpose.ROTATE_90)
    seen = examine(encoded(sideways, quality=95, exif=exif), DEFAULT_MAX_PIXELS)
    assert (seen.width, seen.height) == (300, 200)
    assert distance(seen.fingerprint, examine(encoded(photo(0)), DEFAULT_MAX_PIXELS).fingerprint) <= 3


def test_copies_share_a_fingerprint_and_others_do_not() -> None:
    original = examine(encoded(photo(0), quality=95), DEFAULT_MAX_PIXELS).fingerprint
    copies = [
        encoded(photo(0), quality=70),
        encoded(photo(0, (600, 400)), quality=90),
        encoded(photo(0), "PNG"),
        encoded(photo(0), "WEBP"),
    ]
    assert all(distance(examine(c, DEFAULT_MAX_PIXELS).fingerprint, original) <= 3 for c in copies)
    others = [examine(encoded(photo(seed)), DEFAULT_MAX_PIXELS).fingerprint for seed in range(1, 40)]
    assert all(distance(other, original) > 8 for other in others)


def test_near_blank_pictures_are_no_copies_of_each_other() -> None:
    red, blue = (encoded(Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue"))
    prints = {examine(data, DEFAULT_MAX_PIXELS).fingerprint for data in (red, blue)}
    assert len(prints) == 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_the_whole_file_is_verified(format: str) -> None:
    data = encoded(photo(0, (1600, 1200)), format)
    examine(data, DEFAULT_MAX_PIXELS)
    with pytest.raises(BadImage):
        examine(data[: len(data) * 9 // 10], DEFAULT_MAX_PIXELS)


def test_too_large_and_empty_files_are_refused() -> None:
    with pytest.raises(BadImage, match="too large"):
        examine(encoded(photo(0)), 1000)
    with pytest.raises(BadImage, match="empty file"):
        examine(b"", 1000)
