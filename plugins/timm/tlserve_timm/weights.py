"""Where a network's tensors come from: timm's own download, a file, or random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import nn

from tlserve.plugin_api import BackboneError, ImageSpec, WeightsUnavailable

from .choice import FILE_ENDINGS, PRETRAINED, RANDOM, Choice
from .declared import address_of, image_of, licence_of, table_entry
from .sidecar import Sidecar, read_sidecar

_REASON_LENGTH = 300


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in inference mode without its classifier, and what is declared about it."""

    network: nn.Module
    architecture: str
    sha256: str
    origin: str
    licence: str
    image: ImageSpec


def load_network(choice: Choice, name: str) -> LoadedNetwork:
    """The network with the weights that were chosen. name: as the user wrote it, for errors.

    Raises WeightsUnavailable with what to do about it.
    """
    if choice.weights == RANDOM:
        return _random(choice, name)
    if choice.weights == PRETRAINED:
        return _pretrained(choice, name)
    if choice.weights.endswith(FILE_ENDINGS):
        return _from_file(choice, name, Path(choice.weights).expanduser())
    raise WeightsUnavailable(
        f"{name}: after @ comes a file ending in {' or '.join(FILE_ENDINGS)}, or {RANDOM}; "
        f"one of timm's own sets of weights follows a dot, as in timm/{choice.architecture}.TAG"
    )


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names and bytes, in order of name: for weights that lie in no file of their own."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        flat = state[name].detach().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _random(choice: Choice, name: str) -> LoadedNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _created(choice.full_name, pretrained=False)
    image = image_of(resolve_model_data_config(network), name)
    origin = "random numbers (seed 0): for tests only, its features mean nothing"
    return LoadedNetwork(network, choice.architecture, digest_of(network.state_dict()), origin, "none", image)


def _pretrained(choice: Choice, name: str) -> LoadedNetwork:
    if choice.source == "registry" and not table_entry(choice).has_weights:
        raise WeightsUnavailable(
            f"timm has no weights for {choice.full_name}{_other_tags(choice)}; "
            f"name a file: timm/{choice.full_name}@FILE"
        )
    try:
        network = _created(choice.full_name, pretrained=True)
    except Exception as exc:  # what the hub, the network and torch's reader raise has no common root
        raise WeightsUnavailable(
            f"{name}: cannot get the weights: {_reason(exc)}. {_way_out(choice)}"
        ) from exc
    facts: Any = network.pretrained_cfg
    entry = timm.models.PretrainedCfg(**facts)
    return LoadedNetwork(
        network,
        str(entry.architecture),
        digest_of(network.state_dict()),
        f"{choice.full_name} of timm {timm.__version__}, {address_of(entry) or choice.full_name}",
        licence_of(entry),
        image_of(resolve_model_data_config(network), name),
    )


def _from_file(choice: Choice, name: str, path: Path) -> LoadedNetwork:
    if not path.is_file():
        raise WeightsUnavailable(f"no weights file {path} (looked from {Path.cwd()})")
    sidecar = read_sidecar(path.with_suffix(".json"))
    network = _filled(choice, name, _read_tensors(path), sidecar)
    image = image_of(resolve_model_data_config(network), name)
    return LoadedNetwork(
        network,
        choice.architecture,
        _file_digest(path),
        sidecar.weights_origin or f"file {path.name}",
        sidecar.licence or "unknown: see where the file came from",
        sidecar.applied_to(image),
    )


def _filled(choice: Choice, name: str, state: Mapping[str, torch.Tensor], sidecar: Sidecar) -> nn.Module:
    """The network with the tensors of a file, by timm's names or by those that timm translates.

    The network is made with as many classes as the file has, so that no tensor may be missing or left over.
    """
    entry = table_entry(choice)
    overlay: dict[str, Any] = {"state_dict": dict(state), "label_offset": None}
    if sidecar.size is not None:
        overlay["input_size"] = (3, *sidecar.size)
    failure: Exception | None = None
    for n_classes in _possible_classes(entry, state):
        try:
            return _created(
                choice.full_name,
                pretrained=True,
                pretrained_cfg_overlay={**overlay, "num_classes": n_classes},
            )
        except Exception as exc:  # timm's translators raise whatever they trip over
            failure = failure or exc
    raise WeightsUnavailable(
        f"{name}: the weights are of another architecture: {_reason(failure)}"
    ) from failure


def _possible_classes(entry: Any, state: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """How many classes a file was trained for; 0 where it holds no classifier."""
    first = entry.classifier[0] if isinstance(entry.classifier, tuple | list) else entry.classifier
    weight = state.get(f"{first}.weight")
    # Other people's names are translated later: then timm's own number is worth a try.
    return (int(weight.shape[0]),) if weight is not None else (0, entry.num_classes)


def _created(full_name: str, **options: Any) -> nn.Module:
    """In inference mode, float32, without classifier, built so that torch can export it."""
    network: Any = timm.create_model(full_name, exportable=True, no_jit=True, **options)
    if hasattr(network, "reset_classifier"):
        network.reset_classifier(0)
    network.pretrained_cfg.pop(
        "state_dict", None
    )  # or every copy of the network would hold the tensors twice
    module: nn.Module = network.float().eval()
    return module


def _read_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a file, taken out of the usual wrappings; code in it is never run."""
    try:
        state: Any = load_state_dict(str(path), weights_only=True)
    except Exception as exc:  # on bytes that are no weights, torch's reader raises whatever it trips over
        raise WeightsUnavailable(
            f"cannot read {path} as weights: {_reason(exc)}. It must be safetensors, or a state_dict saved "
            "with torch.save (a whole pickled model could run code and is refused)"
        ) from exc
    if not state or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise WeightsUnavailable(f"{path} holds no state_dict (a mapping of names to tensors)")
    tensors: Mapping[str, torch.Tensor] = state
    return tensors


def _way_out(choice: Choice) -> str:
    if choice.source == "elsewhere":
        return "Write hf-hub:ORG/NAME for a timm model of the hub, or local-dir:FOLDER for one that was saved"
    address = address_of(table_entry(choice))
    return (
        f"They come from {address}. Offline, download the file elsewhere and name it: "
        f"timm/{choice.full_name}@FILE; or copy the cache of a machine that has them "
        "(of huggingface_hub, under HF_HOME, and set HF_HUB_OFFLINE=1; of torch, under TORCH_HOME)"
    )


def _other_tags(choice: Choice) -> str:
    offered = timm.list_pretrained(f"{choice.architecture}.*")
    return f" (it has some for {', '.join(offered)})" if offered else ""


def _reason(exc: BaseException | None) -> str:
    """An error of foreign code, short enough to read."""
    text = " ".join(str(exc).split()) or type(exc).__name__
    return (text if len(text) <= _REASON_LENGTH else f"{text[:_REASON_LENGTH]} ...").rstrip(".")


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise BackboneError(f"cannot read {path}: {exc}") from exc
