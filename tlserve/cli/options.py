"""Arguments and options that several commands share, so that they read and behave the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlserve.core.errors import SettingsError

if TYPE_CHECKING:
    from tlserve.client import Client

DEFAULT_ADDRESS = "127.0.0.1:8001"
"""`tlserve.client.DEFAULT_ADDRESS`, without the cost of importing gRPC for a help text."""

ADDRESS_OPTION = typer.Option(
    "--address", envvar="TLSERVE_ADDRESS", metavar="HOST:PORT", help="gRPC address of the running daemon."
)
JSON_OPTION = typer.Option("--json", help="Print JSON on stdout instead of a table.")

LEARNING_HELP = {
    "head": "Head: auto, softmax, ovr, svm, ridge, projection or mlp.",
    "strategy": "How deep to learn: auto, head, taps, finetune, finetune_all, scratch.",
    "augment": "Augmented views: a policy or operations.",
    "views": "Augmented views of each training image.",
    "unfreeze": "Blocks that fine-tuning changes: k, all, auto.",
}
"""The settings' own descriptions, without the cost of importing them for a help text."""

Address = Annotated[str, ADDRESS_OPTION]
AsJson = Annotated[bool, JSON_OPTION]
ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Name of the model: the name of its folder under the watch root."),
]
VersionName = Annotated[
    str, typer.Argument(metavar="VERSION", help="A number (see `tlserve versions`), `live` or `previous`.")
]
StateFolder = Annotated[
    Path | None,
    typer.Option("--state", metavar="DIR", help="Where tlserve keeps what it learns; made if missing."),
]
WatchFolder = Annotated[
    Path | None,
    typer.Option("--watch", metavar="DIR", help="The watch root: one folder per model, in it one per class."),
]
BackboneName = Annotated[
    str | None,
    typer.Option("--backbone", metavar="NAME", help="The feature extractor; `tlserve backbones` lists them."),
]
PrecisionName = Annotated[
    str | None,
    typer.Option("--precision", metavar="NAME", help="Numbers of the backbone: auto, fp32, fp16 or int8."),
]
HeadName = Annotated[str | None, typer.Option("--head", metavar="NAME", help=LEARNING_HELP["head"])]
StrategyName = Annotated[
    str | None, typer.Option("--strategy", metavar="NAME", help=LEARNING_HELP["strategy"])
]
Augment = Annotated[str | None, typer.Option("--augment", metavar="A,B,C", help=LEARNING_HELP["augment"])]
Views = Annotated[int | None, typer.Option("--views", metavar="N", help=LEARNING_HELP["views"])]
Unfreeze = Annotated[str | None, typer.Option("--unfreeze", metavar="K", help=LEARNING_HELP["unfreeze"])]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="A settings file; without it tlserve.toml in the current folder, if there is one.",
    ),
]


def learning_flags(
    *, head: str | None, strategy: str | None, augment: str | None, views: int | None, unfreeze: str | None
) -> dict[str, Any]:
    """The flags that say how to learn, as `load_settings` takes them."""
    operations = None if augment is None else tuple(name.strip() for name in augment.split(","))
    return {
        "head": head,
        "strategy": strategy,
        "augment": operations,
        "views": views,
        "unfreeze": unfreeze,
    }


def check_address(address: str) -> None:
    """Raises SettingsError for what is neither HOST:PORT nor a Unix socket."""
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) < 65536
    is_host = host.startswith("[") or not set(host) & set(":/")
    if not address.startswith("unix:") and not (host and is_host and is_port):
        raise SettingsError(f"--address must look like HOST:PORT (got {address!r})")


def connect(address: str, *, timeout_seconds: float | None = 30.0) -> Client:
    """A client for the daemon at `address`; use it in a `with` block; the address is checked first."""
    check_address(address)
    from tlserve.client import Client

    return Client(address, timeout_seconds=timeout_seconds)
