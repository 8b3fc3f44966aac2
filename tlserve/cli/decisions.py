"""Commands by which a person decides: retrain, promote, rollback, pin, promotion, adopt, export."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlserve.cli.backbones.showing import SLOW_SECONDS, said_if_slow, waiting_words
from tlserve.cli.options import DEFAULT_ADDRESS, Address, ModelName, VersionName, connect
from tlserve.cli.terminal import say, show

if TYPE_CHECKING:
    from tlserve.rpc.backend import ModelSummary


class PromotionMode(StrEnum):
    """Who decides that a version goes live; `default` is what the settings say."""

    AUTO = "auto"
    MANUAL = "manual"
    FROZEN = "frozen"
    DEFAULT = "default"


def retrain(
    model: ModelName,
    accept_deletions: Annotated[
        bool,
        typer.Option("--accept-deletions", help="Images that disappeared all at once are meant to be gone."),
    ] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Train a model again even if no image changed. The job's id goes to stdout."""
    with connect(address) as client:
        job_id = client.retrain(model, accept_deletions=accept_deletions)
    show(job_id)
    say(f"{model} is queued for training. Follow it with: tlserve watch {model}")


def promote(model: ModelName, version: VersionName, address: Address = DEFAULT_ADDRESS) -> None:
    """Make a version the live one."""
    with connect(address) as client:
        line = client.promote(model, version)
    say(f"{model}: version {line.version} is live.")


def rollback(model: ModelName, address: Address = DEFAULT_ADDRESS) -> None:
    """Go back to the version that was live before. New versions then wait until you promote them."""
    with connect(address) as client:
        line = client.rollback(model)
    say(
        f"{model}: version {line.version} is live again. New versions now wait as candidates, so that "
        f"the next image does not undo this; resume with: tlserve promotion {model} auto"
    )


def pin(
    model: ModelName,
    version: VersionName,
    unpin: Annotated[bool, typer.Option("--unpin", help="Take the pin away again.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Keep a version for good: it is never deleted, and its graph stays in the Triton repository."""
    with connect(address) as client:
        line = client.pin(model, version, pinned=not unpin)
    kept = "is pinned" if line.pinned else "is no longer pinned"
    say(f"{model}: version {line.version} {kept}.")


def promotion(
    model: ModelName,
    mode: Annotated[
        PromotionMode | None,
        typer.Argument(
            metavar="MODE",
            help="auto: the judge decides. manual: new versions wait for you. frozen: nothing is trained "
            "unless you say tlserve retrain. default: what the settings say. Without it the "
            "present mode is shown.",
        ),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Show or set who decides that a new version goes live; `auto` resumes after a rollback."""
    with connect(address) as client:
        if mode is None:
            show(client.model(model).promotion)
            return
        newest = client.versions(model)[-1:]
        summary = client.set_promotion(model, "" if mode is PromotionMode.DEFAULT else mode.value)
    is_free = summary.promotion == PromotionMode.AUTO
    waited = [one.version for one in newest if is_free and one.state == "candidate"]
    again = f": version {waited[0]}, which waited, is looked at again now" if waited else ""
    say(f"{model}: promotion is {summary.promotion}{again}.")


def adopt(
    model: ModelName,
    backbone: Annotated[
        str | None, typer.Argument(metavar="BACKBONE", help="As `tlserve backbones` lists it.")
    ] = None,
    *,
    reset: Annotated[
        bool, typer.Option("--reset", help="Back to what model.toml and the settings say.")
    ] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Have a model learn on another backbone from now on, whatever model.toml and the settings say.

    The backbone is loaded first, which may download its weights. A version on it is then made and judged
    as always: it goes live unless it is worse.
    """
    if (backbone is None) != reset:
        raise typer.BadParameter("give either the name of one, or --reset", param_hint="BACKBONE")
    words = waiting_words(backbone, measure=False, machine="the daemon's machine") if backbone else []
    with connect(address, timeout_seconds=None) as client, said_if_slow(words, SLOW_SECONDS):
        summary = client.set_backbone(model, backbone or "")
    for line in adopted_lines(summary):
        say(line)


def adopted_lines(summary: ModelSummary) -> list[str]:
    """What becomes of a model now, and how to follow it."""
    model, wanted = summary.model, summary.wanted_backbone or summary.backbone
    head = f"{model}: it learns on {wanted} from now on."
    if summary.live is None:
        return [head]
    if not summary.wanted_backbone:
        return [f"{head[:-1]}, as version {summary.live} did."]
    then = {
        PromotionMode.MANUAL: f"A version on it is made now and waits for: tlserve promote {model} N",
        PromotionMode.FROZEN: f"Nothing is trained while promotion is frozen: tlserve promotion {model} auto",
    }.get(PromotionMode(summary.promotion), "A version on it is made now and goes live unless it is worse.")
    return [head, then, f"Follow it with: tlserve watch {model}"]


def export(
    model: ModelName,
    version_and_file: Annotated[
        list[str],
        typer.Argument(
            metavar="[VERSION] FILE",
            help="Where to write the ONNX file; before it a number, `live` (if not given) or `previous`.",
        ),
    ],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Write the whole graph of a version (pixels in, probabilities out) as one ONNX file."""
    if len(version_and_file) > 2:
        raise typer.BadParameter("give one FILE, and at most one VERSION before it", param_hint="FILE")
    *version, name = version_and_file
    file = Path(name)
    if not file.parent.is_dir() or file.is_dir():
        raise typer.BadParameter(f"cannot write a file at {name!r}", param_hint="FILE")
    with connect(address) as client:
        n_bytes = client.export(model, "".join(version), file)
    say(f"{model}: wrote {file} ({n_bytes / 1e6:.1f} MB).")
