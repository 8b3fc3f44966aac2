"""Checks of backbones that can be fine-tuned. Each gives what is wrong, or None; torch is imported late.

A backbone without a torch module passes them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from tlserve.plugin_api import TrainableBackbone, TrainableModule
from tlserve.testing.trial import Floats, Outputs, Trial, difference


def module_agrees(trial: Trial) -> str | None:
    return _of_module(trial, lambda made: _graph_and_module(trial, made))


def module_takes_the_same_order(trial: Trial) -> str | None:
    """Whether the module wants red and blue the other way round than the graph does."""

    def wrong(made: TrainableModule) -> str | None:
        if _graph_and_module(trial, made) is None:
            return None
        axis = 1 if trial.backbone.info.image.layout == "NCHW" else 3
        if difference(_pooled(trial, trial.outputs), _run(trial, made, np.flip(trial.images, axis).copy())):
            return None  # it differs in some other way, which another check tells
        return "the module gives the graph's features once red and blue are swapped"

    return _of_module(trial, wrong)


def module_infers(trial: Trial) -> str | None:
    """In eval mode, one image has one answer: no dropout that goes on, no statistics of the batch."""

    def wrong(made: TrainableModule) -> str | None:
        together = _run(trial, made, trial.images)
        training = [name or "the module" for name, part in made.module.named_modules() if part.training]
        if training:
            return f"after eval(), {', '.join(training[:3])} is in training mode"
        if fault := difference(together, _run(trial, made, trial.images)):
            return f"run twice, {fault}"
        rows = [_run(trial, made, image[np.newaxis]) for image in trial.images]
        alone = {tap: np.concatenate([row[tap] for row in rows]) for tap in together}
        fault = difference(together, alone)
        return f"alone and in a batch, {fault}" if fault else None

    return _of_module(trial, wrong)


def blocks_cover_parameters(trial: Trial) -> str | None:
    return _of_module(trial, _uncovered)


def blocks_run_deeper(trial: Trial) -> str | None:
    """The order in which the blocks, or parts of them, are first called is the order they stand in."""

    def wrong(made: TrainableModule) -> str | None:
        called: list[int] = []
        for place, block in enumerate(made.blocks):
            for part in block.modules():
                part.register_forward_pre_hook(lambda *_, place=place: called.append(place))
        _run(trial, made, trial.images[:1])
        order = list(dict.fromkeys(called))
        return None if order == sorted(order) else f"they are used in the order {[n + 1 for n in order]}"

    return _of_module(trial, wrong)


def every_block_learns(trial: Trial) -> str | None:
    def wrong(made: TrainableModule) -> str | None:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs = made.module.train()(torch.from_numpy(trial.images))
        if fault := _not_the_taps(trial, outputs):
            return f"in training mode, {fault}"
        sum(output.square().mean() for output in outputs.values()).backward()
        for place, block in enumerate(made.blocks, start=1):
            gradients = [p.grad for p in block.parameters() if p.grad is not None]
            if not gradients:
                return f"no parameter of block {place} gets a gradient"
            if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
                return f"block {place} gets gradients that are not finite"
        return None

    return _of_module(trial, wrong)


def module_is_a_copy(trial: Trial) -> str | None:
    """Spoil every parameter of one module; a new export must not notice."""

    def wrong(made: TrainableModule) -> str | None:
        _ = trial.outputs  # exported and run before the spoiling
        _spoil(made)
        place = trial.folder / "after training"
        place.mkdir()
        fault = difference(trial.outputs, Trial(trial.backbone, place).outputs)
        return f"after its parameters were changed, the export's {fault}" if fault else None

    return _of_module(trial, wrong)


def module_is_fresh(trial: Trial) -> str | None:
    """Spoil every parameter of one module; the next one that is handed out must not notice."""

    def wrong(made: TrainableModule) -> str | None:
        before = _run(trial, made, trial.images)
        _spoil(made)
        assert isinstance(trial.backbone, TrainableBackbone)
        fault = difference(before, _run(trial, trial.backbone.torch_module(), trial.images))
        return f"after the first one's parameters were changed, the second one's {fault}" if fault else None

    return _of_module(trial, wrong)


def _of_module(trial: Trial, wrong: Callable[[TrainableModule], str | None]) -> str | None:
    return wrong(trial.backbone.torch_module()) if isinstance(trial.backbone, TrainableBackbone) else None


def _run(trial: Trial, made: TrainableModule, images: Floats) -> Outputs:
    """The module's taps in eval mode, pooled. Raises ValueError if it gives something else."""
    import torch

    with torch.no_grad():
        outputs = made.module.eval()(torch.from_numpy(images))
    if fault := _not_the_taps(trial, outputs):
        raise ValueError(fault)
    return _pooled(trial, {tap: output.numpy() for tap, output in outputs.items()})


def _graph_and_module(trial: Trial, made: TrainableModule) -> str | None:
    return difference(_pooled(trial, trial.outputs), _run(trial, made, trial.images))


def _pooled(trial: Trial, outputs: Outputs) -> Outputs:
    return {tap: trial.pooled(array) for tap, array in outputs.items()}


def _not_the_taps(trial: Trial, outputs: object) -> str | None:
    declared = [tap.name for tap in trial.backbone.info.taps]
    if isinstance(outputs, dict) and sorted(outputs) == sorted(declared):
        return None
    kind = ", ".join(map(str, outputs)) if isinstance(outputs, dict) else type(outputs).__name__
    return f"forward must give {{tap: activations}} for {', '.join(declared)}, got {kind}"


def _uncovered(made: TrainableModule) -> str | None:
    in_blocks = Counter(id(parameter) for block in made.blocks for parameter in block.parameters())
    names = {id(parameter): name for name, parameter in made.module.named_parameters()}
    missing = [name for key, name in names.items() if key not in in_blocks]
    twice = [name for key, name in names.items() if in_blocks[key] > 1]
    strange = len(in_blocks.keys() - names.keys())
    faults = [
        f"{kind}: {', '.join(found[:3])}"
        for kind, found in (("in no block", missing), ("in two blocks", twice))
        if found
    ]
    if strange:
        faults.append(f"{strange} parameters of the blocks are not the module's")
    return "; ".join(faults) or None


def _spoil(made: Any) -> None:
    import torch

    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter.add_(1.0)
