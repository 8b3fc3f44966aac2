"""Where a network's tensors come from: torchvision's own download, a file, or random numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torchvision import models

from tlserve.plugin_api import BackboneError, ImageSpec, WeightsUnavailable

from .catalogue import FEATURES_ONLY, RANDOM, RANDOM_LICENCE, licence_of

Download = Callable[[str, Path, str], None]
"""(address, file to write, beginning of its sha256); raises OSError, or RuntimeError on a wrong hash."""

FILE_ENDINGS = (".safetensors", ".pth", ".pt")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Weights:
    """Tensors by torchvision's names (None: to be drawn at random), and what is declared about them."""

    state: Mapping[str, torch.Tensor] | None
    sha256: str
    origin: str
    licence: str
    image: ImageSpec
    convolutions_only: bool = False
    """Whether the classifier's hidden layers are missing too (a VGG16 meant for detectors)."""


def find_weights(architecture: str, choice: str, download: Download) -> Weights:
    """The weights a user chose: "" for torchvision's default, one of its names, a file, or "random".

    Raises WeightsUnavailable with what to do about it.
    """
    offered = models.get_model_weights(architecture)
    if choice == RANDOM:
        origin = "random numbers (seed 0): for tests only, its features mean nothing"
        return Weights(None, "", origin, RANDOM_LICENCE, image_of(offered.DEFAULT))
    if not choice or choice in offered.__members__:
        return _from_torchvision(architecture, offered[choice or "DEFAULT"], download)
    if choice.endswith(FILE_ENDINGS):
        return _from_file(Path(choice).expanduser(), offered)
    raise WeightsUnavailable(
        f"torchvision/{architecture}@{choice}: no such weights; write @ and one of "
        f"{', '.join(member.name for member in offered)}, or a file ending in {', '.join(FILE_ENDINGS)}, "
        f"or {RANDOM}"
    )


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names and bytes, in order of name: for weights that lie in no file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def torch_download(address: str, path: Path, sha256_beginning: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(address, str(path), sha256_beginning, progress=False)


def _from_torchvision(architecture: str, member: Any, download: Download) -> Weights:
    file_name = member.url.rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    beginning = digest_beginning(member)
    if not path.exists():
        try:
            download(member.url, path, beginning)
        except (OSError, URLError, RuntimeError) as exc:
            raise WeightsUnavailable(
                f"torchvision/{architecture}: cannot download {member.url} ({exc}). Offline, put that "
                f"file into {path.parent}, or name a file (.pth or .safetensors): "
                f"torchvision/{architecture}@FILE"
            ) from exc
    sha256 = _file_digest(path)
    if not sha256.startswith(beginning):
        raise WeightsUnavailable(
            f"{path} is damaged: its sha256 should begin with {beginning}; delete it and try again"
        )
    return _of_torchvision(member, _read_tensors(path), sha256)


def _of_torchvision(member: Any, state: Mapping[str, torch.Tensor], sha256: str) -> Weights:
    return Weights(
        state,
        sha256,
        f"{member} of torchvision, {member.url}",
        licence_of(member.name),
        image_of(member),
        convolutions_only=member.name == FEATURES_ONLY,
    )


def _from_file(path: Path, offered: Any) -> Weights:
    """A file is known for torchvision's own by its digest, wherever it lies; else the default is assumed."""
    if not path.is_file():
        raise WeightsUnavailable(f"no weights file {path} (looked from {Path.cwd()})")
    state, sha256 = _read_tensors(path), _file_digest(path)
    found = Weights(
        state,
        sha256,
        f"file {path.name}",
        "unknown: see where the file came from",
        image_of(offered.DEFAULT),
    )
    if (member := member_of_digest(offered, sha256)) is not None:
        found = _of_torchvision(member, state, sha256)
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return found
    facts = _read_sidecar(sidecar)
    return dataclasses.replace(
        found,
        image=_overridden(found.image, facts.get("image", {}), sidecar),
        licence=str(facts.get("licence", found.licence)),
        origin=str(facts.get("weights_origin", found.origin)),
    )


def _read_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a file by torchvision's names, taken out of the usual wrappings."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # on bytes that are no weights, torch's reader raises whatever it trips over
        raise WeightsUnavailable(
            f"cannot read {path} as weights: {(str(exc) or type(exc).__name__).splitlines()[0]}. It must be "
            "safetensors, or a state_dict saved with torch.save "
            "(a whole pickled model could run code and is refused)"
        ) from exc
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in loaded.values()
    ):
        raise WeightsUnavailable(f"{path} holds no state_dict (a mapping of names to tensors)")
    return _modern_names(loaded)


def _modern_names(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Without DataParallel's prefix and with DenseNet's names of today; metadata kept."""
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    old_densenet = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
    renamed = type(state)()
    for name, tensor in state.items():
        short = name.removeprefix(prefix)
        match = old_densenet.fullmatch(short)
        renamed[match.group(1) + match.group(2) if match else short] = tensor  # type: ignore[index]
    if hasattr(state, "_metadata") and not prefix:
        renamed._metadata = state._metadata  # type: ignore[attr-defined]
    return renamed


def digest_beginning(member: Any) -> str:
    """The first hex digits of the sha256 of a set of torchvision's weights: it writes them into the name."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", member.url)
    return match.group(1) if match else ""


def member_of_digest(offered: Any, sha256: str) -> Any | None:
    """Which of an architecture's sets of weights is the file with this digest; None if it is none of them."""
    for member in offered:
        if (beginning := digest_beginning(member)) and sha256.startswith(beginning):
            return member
    return None


def image_of(member: Any) -> ImageSpec:
    """What torchvision says its weights expect, in pixel units."""
    transforms = member.transforms()
    return ImageSpec(
        height=transforms.crop_size[0],
        width=transforms.crop_size[0],
        resize_short_side=transforms.resize_size[0],
        mean=_pixel_units(transforms.mean),
        std=_pixel_units(transforms.std),
        interpolation=transforms.interpolation.value,
    )


def _pixel_units(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (round(value * 255.0, 6) for value in values)
    return red, green, blue


def _read_sidecar(sidecar: Path) -> dict[str, Any]:
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsUnavailable(f"cannot read {sidecar}: {exc}") from exc
    if not isinstance(facts, dict) or not isinstance(facts.get("image", {}), dict):
        raise WeightsUnavailable(f"{sidecar}: a JSON object is expected, and its 'image' must be one too")
    return facts


def _overridden(image: ImageSpec, fields: dict[str, Any], sidecar: Path) -> ImageSpec:
    """`image` with the fields that the sidecar gives."""
    known = {field.name for field in dataclasses.fields(ImageSpec)}
    if unknown := sorted(set(fields) - known):
        raise WeightsUnavailable(
            f"{sidecar}: image has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    try:
        for name in ("mean", "std"):
            if name in fields:
                red, green, blue = (float(value) for value in fields[name])
                fields = {**fields, name: (red, green, blue)}
        return dataclasses.replace(image, **fields)
    except (TypeError, ValueError) as exc:
        raise WeightsUnavailable(f"{sidecar}: image: {exc}") from exc


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise BackboneError(f"cannot read {path}: {exc}") from exc
