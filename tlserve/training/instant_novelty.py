"""The novelty of an instant head: the live head's centres, those of new classes, and the scale anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tlserve.core.head import Head, Novelty, logits
from tlserve.core.types import Features
from tlserve.training.arrays import Float32
from tlserve.training.centres import spherical_means, unit
from tlserve.training.instant_kept import Kept
from tlserve.training.novelty import (
    CENTRES_PER_CLASS,
    ENOUGH_HELD_OUT,
    ROWS_PER_CENTRE,
    centre_room,
    fit_novelty,
    measured,
    rounded,
)

MOST_HELD_OUT = 4_000
"""Held-out images that the scale is taken from, evenly spaced: it has a hundred steps."""


def novelty_of(
    kept: Kept, head: Head, live: Head | None, held_out: Features | None, budget_kb: int
) -> Novelty | None:
    """The block for `head`.

    Where the live head has none for these columns, or too few images are held out to measure one by, it is
    made from the rows in memory: all, or those of the validating images.
    """
    if held_out is not None and len(held_out) > MOST_HELD_OUT:
        held_out = held_out[np.linspace(0, len(held_out) - 1, MOST_HELD_OUT).astype(np.intp)]
    said = None if held_out is None else logits(head, held_out)
    block = None if live is None or live.taps != head.taps else live.novelty
    enough = held_out is not None and len(held_out) >= ENOUGH_HELD_OUT
    if block is None or live is None or not enough or held_out is None or block.n_features != head.n_features:
        return _made_anew(kept, head, held_out, said, budget_kb)
    new = [name for name in head.labels if name not in live.labels]
    if new:
        random = np.random.default_rng(kept.seed)
        centres = np.concatenate([block.centroids, *(_centres(kept, name, block, random) for name in new)])
        room = centre_room(budget_kb, len(block.mean), len(block.scale), head.n_features)
        if len(centres) > room:
            centres = spherical_means(centres, max(1, room), random)
        block = replace(block, centroids=rounded(centres))
    return measured(block, held_out, said)


def _made_anew(
    kept: Kept, head: Head, held_out: Features | None, said: Float32 | None, budget_kb: int
) -> Novelty | None:
    lesson = kept.lesson(head.labels, everything=True)
    return fit_novelty(
        kept.scaling,
        lesson.rows,
        lesson.targets,
        lesson.n_classes,
        held_out,
        held_out_scores=said,
        budget_kb=budget_kb,
        seed=kept.seed,
    )


def _centres(kept: Kept, name: str, block: Novelty, random: np.random.Generator) -> Float32:
    """Of a class that the live head does not know: of its rows, or its mean where they are not in memory."""
    if kept.teaching is None:
        sums = kept.taught.cross((name,))[:, 0]
        standardised = (sums[:-1] / max(sums[-1], 1e-12))[None].astype(np.float32)
    else:
        parts = (kept.teaching, kept.validating)
        standardised = np.concatenate(
            [part.rows[[at for at, label in enumerate(part.labels) if label == name]] for part in parts]
        )
    raw = standardised * kept.scaling.scale + kept.scaling.mean
    directions = unit((raw - block.mean) / block.scale)
    n_centres = max(1, min(CENTRES_PER_CLASS, len(directions) // ROWS_PER_CENTRE))
    return spherical_means(directions, n_centres, random)
