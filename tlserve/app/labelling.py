"""Labelling through the API: an image becomes a file in its class's folder, where the watcher finds it.

The only place that writes below the watch root, and it only ever adds.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path

from tlserve.core.errors import BadInput, StoreUnavailable
from tlserve.core.types import check_model_name
from tlserve.images import examine
from tlserve.ingest.names import is_ignored, is_set_aside
from tlserve.rpc.backend import AddedImage

IMAGE_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
}
LONGEST_FILE_STEM = 100


def add_image(watch: Path, model: str, label: str, name: str, data: bytes, *, max_pixels: int) -> AddedImage:
    """Write an image under watch/model/label; `name` is a wish. Blocks: call it on a thread.

    Equal bytes already there under that name are left; another file of that name gets a new one. Raises
    BadModelName, BadInput, BadImage or StoreUnavailable, and has written nothing then.
    """
    check_model_name(model)
    _check_label(label)
    examination = examine(data, max_pixels)
    file_name = _file_name(name, data, IMAGE_SUFFIXES.get(examination.format, ".img"))
    return _write_image(watch, watch / model / label, file_name, data)


def _check_label(label: str) -> None:
    """One path component that the watcher will read as a class."""
    if label in ("", ".", "..") or "/" in label or "\0" in label or len(label.encode()) > 255:
        raise BadInput(
            f"label {label!r} cannot be a folder name: one path component of 1 to 255 bytes is needed"
        )
    if is_set_aside(label) or is_ignored(label):
        raise BadInput(f"label {label!r} is a name that the watcher passes over; choose another")


def _file_name(name: str, data: bytes, suffix: str) -> str:
    """A safe file name: the caller's own where it gives one, else one made of the content."""
    given = Path(name.replace("\\", "/")).name
    stem = re.sub(r"[^\w.-]+", "_", Path(given).stem).strip("._")[:LONGEST_FILE_STEM]
    own_suffix = Path(given).suffix if re.fullmatch(r"\.\w{1,5}", Path(given).suffix) else suffix
    file_name = (stem or hashlib.sha256(data).hexdigest()[:16]) + own_suffix
    return stem + suffix if is_ignored(file_name) else file_name


def _write_image(watch: Path, folder: Path, name: str, data: bytes) -> AddedImage:
    """Write under a hidden name, then link it into place: the watcher never sees half a file."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / name
        for attempt in range(1, 1000):
            if not target.exists():
                break
            if target.read_bytes() == data:
                return AddedImage(str(target.relative_to(watch)), digest, already_there=True)
            target = folder / f"{Path(name).stem}-{attempt}{Path(name).suffix}"
        hidden = folder / f".{uuid.uuid4().hex}.part"
        try:
            with hidden.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(hidden, target)  # fails, rather than overwrite, when somebody was quicker
        finally:
            hidden.unlink(missing_ok=True)
    except OSError as exc:
        raise StoreUnavailable(f"the image was not saved in {folder}: {exc.strerror}; try again") from exc
    return AddedImage(str(target.relative_to(watch)), digest, already_there=False)
