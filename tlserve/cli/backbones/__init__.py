"""`tlserve backbones`: what is installed; `show` tells all about one, `inspect` looks into an ONNX file."""

from __future__ import annotations

from typing import Annotated

import typer

from tlserve.cli.backbones.inspecting import inspect_file
from tlserve.cli.backbones.listing import list_backbones
from tlserve.cli.backbones.showing import show_backbone
from tlserve.cli.options import ADDRESS_OPTION, AsJson, ConfigFile, StateFolder

backbones = typer.Typer(invoke_without_command=True)


@backbones.callback()
def _list(
    context: typer.Context,
    *,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="PATTERN", help="Names with this in them, or like this: `vit*_16`."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every name, however many there are.")] = False,
    address: Annotated[str | None, ADDRESS_OPTION] = None,
    config: ConfigFile = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """List the feature extractors that the installed plugins offer, and what is wrong with broken ones.

    A blank is what a plugin does not tell before it loads a backbone, or was not measured on this machine.
    Without a daemon, the plugins installed here are asked.
    """
    if context.invoked_subcommand is None:
        list_backbones(
            only=only, everything=everything, address=address, config=config, state=state, as_json=as_json
        )
        return
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is not None and source.name == "COMMANDLINE":
            words = f"write it behind {context.invoked_subcommand!r}"
            raise typer.BadParameter(words, param_hint=option.opts[0])


backbones.command("show")(show_backbone)
backbones.command("inspect")(inspect_file)
