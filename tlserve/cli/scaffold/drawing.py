"""The files of a new plugin, as texts and bytes: made from the templates, written nowhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from string import Template

from tlserve import __version__

_PLUGIN_DOC = '"""The backbone `{name}`. Replace the network, the weights, and what `info` says of them."""'
_NETWORK_DOC = (
    '"""The network: what you have already. By itself, so that listing the plugin needs no torch."""'
)
_FUTURE = "from __future__ import annotations"
_PLUGIN_IMPORTS = """\
import copy
import hashlib
from pathlib import Path

{foreign}

from tlserve.plugin_api import (
    BackboneInfo,
    ImageSpec,
    Tap,
    TrainableModule,
    UnknownArchitecture,
    WeightsUnavailable,
)"""
_LATE_NETWORK = (
    "        from .network import network_with  # late: a listing of plugins need not wait for torch\n"
)
_SHAPES = {
    "stage1.0.weight": (16, 3, 3, 3),
    "stage1.0.bias": (16,),
    "stage2.0.weight": (32, 16, 3, 3),
    "stage2.0.bias": (32,),
}


@dataclass(frozen=True, slots=True)
class Names:
    """What a new plugin is called. prefix: as users write it."""

    prefix: str

    @property
    def distribution(self) -> str:
        return f"tlserve-{self.prefix}"

    @property
    def module(self) -> str:
        return self.distribution.replace("-", "_").replace(".", "_")


def package_files(names: Names) -> Mapping[str, bytes]:
    """{path inside the package's folder: content}."""
    module = names.module
    network = "\n".join(
        [
            _NETWORK_DOC,
            "",
            _FUTURE,
            "",
            "from safetensors.torch import load",
            "from torch import Tensor, nn",
            "",
            "",
            _filled("network.py", names),
        ]
    )
    plugin = _plugin(
        names,
        weights="weights.safetensors",
        remedy=f"install {names.distribution} again",
        foreign="from safetensors import SafetensorError",
        late_network=_LATE_NETWORK,
        late_torch="        import torch\n",
    )
    texts = {
        "pyproject.toml": _filled("pyproject.toml", names, version=__version__),
        "README.md": _filled("README.md", names),
        ".gitignore": _filled("gitignore", names),
        f"{module}/__init__.py": plugin,
        f"{module}/network.py": network,
        f"tests/test_{module.removeprefix('tlserve_')}.py": _filled("test.py", names),
    }
    return {name: text.encode() for name, text in texts.items()} | {
        f"{module}/weights.safetensors": random_weights()
    }


def single_files(names: Names) -> Mapping[str, bytes]:
    """{file name: content} for a folder of plugins."""
    weights = f"{names.prefix}.safetensors"
    plugin = _plugin(
        names,
        weights=weights,
        remedy="put the file back beside the plugin",
        foreign="import torch\nfrom safetensors import SafetensorError\n"
        "from safetensors.torch import load\nfrom torch import Tensor, nn",
        network=_filled("network.py", names) + "\n\n",
    )
    return {f"{names.prefix}.py": f"{plugin}\n\nPLUGIN = Plugin()\n".encode(), weights: random_weights()}


def random_weights() -> bytes:
    """A safetensors file for the template's network; the same each time."""
    import numpy as np
    from safetensors.numpy import save

    draw = np.random.default_rng(0)
    tensors = {
        name: (draw.normal(size=shape) * math.sqrt(2 / math.prod(shape[1:])) * (len(shape) > 1)).astype("f4")
        for name, shape in _SHAPES.items()
    }
    content: bytes = save(tensors)
    return content


def _plugin(
    names: Names,
    *,
    weights: str,
    remedy: str,
    foreign: str,
    network: str = "",
    late_network: str = "",
    late_torch: str = "",
) -> str:
    body = _filled(
        "plugin.py", names, weights=weights, remedy=remedy, import_network="@network", import_torch="@torch"
    )
    body = body.replace("@network\n", late_network and late_network + "\n")
    body = body.replace("@torch\n", late_torch and late_torch + "\n")
    head = [_PLUGIN_DOC.format(name=names.prefix), "", _FUTURE, "", _PLUGIN_IMPORTS.format(foreign=foreign)]
    return "\n".join([*head, "", "", network + body])


def _filled(template: str, names: Names, **more: str) -> str:
    source = resources.files("tlserve.cli.scaffold").joinpath("templates", f"{template}.tmpl")
    return Template(source.read_text(encoding="utf-8")).substitute(
        more, name=names.prefix, distribution=names.distribution, module=names.module
    )
