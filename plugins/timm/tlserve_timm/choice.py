"""What a user wrote after `timm/`, taken apart and held against timm's registry."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from timm import is_model, list_models
from timm.models import get_arch_pretrained_cfgs

from tlserve.plugin_api import UnknownArchitecture

RANDOM = "random"
PRETRAINED = ""
FILE_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
SOURCES = ("hf-hub:", "local-dir:")
_COMMON = ("resnet50", "mobilenetv3_large_100", "convnext_tiny", "vit_small_patch14_dinov2")
_LIST_ALL = "List all with: tlserve backbones --only 'timm/*' --all"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of timm's networks and where its weights come from."""

    architecture: str
    """Without tag; or a whole name with a source of timm's own, such as hf-hub:org/name."""
    tag: str
    """"" for timm's default."""
    weights: str
    """PRETRAINED for timm's own, RANDOM, or the path of a file."""

    @property
    def full_name(self) -> str:
        """As timm writes it."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture

    @property
    def source(self) -> Literal["registry", "elsewhere"]:
        """Whether timm's own registry knows the network, or only a configuration beside its weights."""
        return "elsewhere" if self.architecture.startswith(SOURCES) else "registry"


def read_choice(rest: str) -> Choice:
    """Raises UnknownArchitecture with near names."""
    if rest.startswith(SOURCES):
        return Choice(rest, "", PRETRAINED)  # here @ names a revision, as timm has it
    full_name, _, weights = rest.partition("@")
    architecture, _, tag = full_name.partition(".")
    if not architecture or not is_model(architecture):
        raise UnknownArchitecture(_no_architecture(architecture))
    if tag and full_name not in (tags := tuple(get_arch_pretrained_cfgs(architecture))):
        raise UnknownArchitecture(
            f"timm has no weights {tag!r} for {architecture}; it has: "
            f"{', '.join(name for name in tags if '.' in name) or 'none'}"
        )
    return Choice(architecture, tag, weights)


def _no_architecture(architecture: str) -> str:
    if not architecture:
        return f"write timm/ARCH, for example timm/{_COMMON[0]}. {_LIST_ALL}"
    near = difflib.get_close_matches(architecture, list_models(), n=5) or list(_COMMON)
    where = "; a model of the Hugging Face hub is written timm/hf-hub:ORG/NAME" if "/" in architecture else ""
    return (
        f"timm has no architecture {architecture!r}; near or common ones: {', '.join(near)}{where}. "
        + _LIST_ALL
    )
