from __future__ import annotations

import contextlib
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from PIL import Image

from tlserve.core.errors import BadImage, BadInput
from tlserve.images import ImageDecoder
from tlserve.plugin_api import ImageSpec

Array = npt.NDArray[np.uint8]

CROPPED = ImageSpec(64, 64, 80, mean=(0, 0, 0), std=(1, 1, 1))
STRETCHED = ImageSpec(48, 32, None, mean=(0, 0, 0), std=(1, 1, 1), crop="none")


def scene(height: int, width: int) -> Array:
    """Red grows to the right, green downwards, blue waves."""
    y, x = np.mgrid[:height, :width]
    wave = 127 + 100 * np.sin(x / width * 20) * np.cos(y / height * 15)
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), wave], -1).astype(np.uint8)


def encoded(picture: Array | Image.Image, format: str = "PNG", **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def difference(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("spec", [CROPPED, STRETCHED])
@pytest.mark.parametrize("size", [(100, 100), (333, 500), (20, 700), (1, 1), (1, 900), (64, 64)])
def test_any_size_becomes_the_size_of_the_spec(spec: ImageSpec, size: tuple[int, int]) -> None:
    picture = scene(*size) if min(size) > 1 else np.full((*size, 3), 7, np.uint8)
    out = ImageDecoder(spec).decode(encoded(picture))
    assert out.shape == (spec.height, spec.width, 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize("side", [96, 112, 224, 299])
def test_a_crop_as_large_as_the_resized_picture_fits_pictures_of_every_size(side: int) -> None:
    """Rounding once put the crop a hair outside the picture: at 112 for a short side of 225, among others."""
    decoder = ImageDecoder(
        ImageSpec(height=side, width=side, resize_short_side=side, mean=(0, 0, 0), std=(1, 1, 1))
    )
    for short in range(1, 700):
        pixels = np.zeros((1, short, short + short % 3, 3), np.uint8)
        assert decoder.fit(pixels).shape == (1, side, side, 3)


def test_the_middle_of_the_resized_picture_is_kept() -> None:
    out = ImageDecoder(CROPPED).decode(encoded(scene(160, 320)))
    # Short side 160 -> 80; the crop keeps the middle 64 of 80 rows and the middle 64 of 160 columns.
    assert out[32, 0, 0] == pytest.approx(255 * 96 / 320, abs=3)
    assert out[32, -1, 0] == pytest.approx(255 * 224 / 320, abs=3)
    assert out[0, 32, 1] == pytest.approx(255 * 16 / 160, abs=3)


@pytest.mark.parametrize("size", [(64, 64), (90, 120), (500, 333)])
def test_pixels_are_fitted_as_the_file_they_came_from(size: tuple[int, int]) -> None:
    decoder = ImageDecoder(CROPPED)
    picture = scene(*size)
    np.testing.assert_array_equal(decoder.fit(picture[None])[0], decoder.decode(encoded(picture)))


def test_pixels_of_the_right_size_are_not_copied() -> None:
    pixels = np.zeros((3, 64, 64, 3), np.uint8)
    assert ImageDecoder(CROPPED).fit(pixels) is pixels


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 4), np.uint8),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 0, 64, 3), np.uint8),
    ],
)
def test_pixels_of_another_shape_or_type_are_refused(pixels: Array) -> None:
    with pytest.raises(BadInput, match="pixels must be uint8"):
        ImageDecoder(CROPPED).fit(pixels)


def test_too_many_pixels_are_refused_either_way() -> None:
    decoder = ImageDecoder(CROPPED, max_pixels=9_999)
    with pytest.raises(BadImage, match=r"too large: 100 x 100 pixels, at most 9,999"):
        decoder.decode(encoded(scene(100, 100)))
    with pytest.raises(BadInput, match="100 x 100"):
        decoder.fit(scene(100, 100)[None])


def test_the_size_is_checked_before_anything_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")
    with pytest.raises(BadImage, match="too large"):
        ImageDecoder(CROPPED).decode(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_honoured(orientation: int, format: str) -> None:
    upright = Image.fromarray(scene(200, 300))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose members that lead back
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format != "PNG" else {}
    decoder = ImageDecoder(STRETCHED)
    out = decoder.decode(encoded(stored, format, exif=exif, **options))
    assert difference(out, decoder.decode(encoded(upright))) < 4


WIDE = {"I": np.int32, "F": np.float32, "I;16": np.dtype("<u2"), "I;16B": np.dtype(">u2")}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "YCbCr", *WIDE])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("this Pillow cannot read back the YCbCr TIFF that it writes")
    grey = Image.fromarray(scene(100, 100)[:, :, 0])
    if mode in WIDE:
        values = np.asarray(grey, np.float64) * (1 / 255 if mode == "F" else 257)
        image = Image.fromarray(values.astype(WIDE[mode]))
        assert image.mode == mode
    else:
        image = grey.convert(mode)
    out = ImageDecoder(STRETCHED).decode(encoded(image, "TIFF"))
    assert out.shape == (48, 32, 3)
    expected = ImageDecoder(STRETCHED).decode(encoded(grey))
    assert difference(out, expected) < (4 if mode != "1" else 40)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    out = ImageDecoder(CROPPED).decode(encoded(Image.fromarray(ramp)))
    assert (out[0, 0, 0], out[-1, -1, 0]) == (0, 255)
    assert out[32, 0, 0] == pytest.approx(128, abs=2)


@pytest.mark.parametrize("values", [np.linspace(-3, 9, 4096), np.array([*range(4095), np.nan])])
def test_floats_of_any_range_are_stretched(values: npt.NDArray[np.float64]) -> None:
    image = Image.fromarray(values.reshape(64, 64).astype(np.float32))
    out = ImageDecoder(CROPPED).decode(encoded(image, "TIFF"))
    assert out.min() == 0
    assert out.max() >= 254


def test_transparent_parts_are_white() -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:32] = (200, 10, 10, 255)
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    decoder = ImageDecoder(CROPPED)
    out = decoder.decode(encoded(Image.fromarray(rgba)))
    assert tuple(out[5, 5]) == (200, 10, 10)
    assert tuple(out[60, 60]) == (255, 255, 255)
    assert (decoder.decode(encoded(palette, transparency=1)) == 255).all()


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(ImageDecoder(CROPPED).decode(data)[9, 9]) == (255, 0, 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_a_truncated_file_is_a_bad_image(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    data = encoded(noise, format)
    for share in (0.5, 0.9):
        with pytest.raises(BadImage):
            ImageDecoder(CROPPED).decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
    ],
)
def test_what_is_no_image_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        ImageDecoder(CROPPED).decode(data)


def test_a_truncated_jpeg_is_called_truncated() -> None:
    with pytest.raises(BadImage, match="truncated"):
        ImageDecoder(CROPPED).decode(encoded(scene(300, 300), "JPEG")[:-2000])


def test_random_damage_never_raises_anything_else() -> None:
    draw = np.random.default_rng(1)
    decoder = ImageDecoder(CROPPED, max_pixels=1_000_000)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        clean = np.frombuffer(encoded(scene(90, 90), format), np.uint8)
        for _ in range(60):
            damaged = clean.copy()
            damaged[draw.integers(0, len(clean), 12)] = draw.integers(0, 255, 12)
            with contextlib.suppress(BadImage):
                assert decoder.decode(damaged.tobytes()).shape == (64, 64, 3)


def test_a_big_jpeg_decodes_fast_and_close_to_the_full_decode() -> None:
    picture = scene(1500, 2000)
    decoder = ImageDecoder(CROPPED)
    drafted, full = decoder.decode(encoded(picture, "JPEG", quality=95)), decoder.decode(encoded(picture))
    assert difference(drafted, full) < 1.5


def test_many_threads_get_the_same_pixels() -> None:
    decoder = ImageDecoder(CROPPED)
    data = encoded(scene(700, 900), "JPEG")
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(decoder.decode, [data] * 64))
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_memoryview_decodes_as_bytes_do() -> None:
    data = encoded(scene(99, 77), "JPEG")
    decoder = ImageDecoder(CROPPED)
    np.testing.assert_array_equal(decoder.decode(memoryview(data)), decoder.decode(data))
