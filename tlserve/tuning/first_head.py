"""The head that fine-tuning begins with: softmax regression on the features of the untouched backbone.

It is fitted here, not taken from a version: a version's head has learnt from all training pictures, those
that validate a fine-tuning among them, and no epoch could ever look better than it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tlserve.tuning.layer import HeadLayer

MOST_FOR_FIRST_HEAD = 20_000
"""Pictures: with more, a linear head gains little, and steps follow."""
PENALTIES = (3.0, 30.0, 300.0)
"""C times the number of features, as in `training.search`; that of the lowest validation loss is taken."""
_MOST_EVALUATIONS = 150
_TOLERANCE = 1e-6

Labelled = tuple[Tensor, Tensor]
"""(n, n_features) float32 and the class of each row."""


def fit_first_head(head: HeadLayer, learnt: Labelled, judged: Labelled, class_weights: Tensor) -> None:
    """Give `head` the standardisation and the weights that suit these rows best. Deterministic."""
    features, targets = learnt
    head.standardise(features)
    standardised = (features - head.mean) / head.scale
    best, best_loss = None, float("inf")
    for penalty in PENALTIES:
        _fit(head, standardised, targets, class_weights, penalty)
        with torch.no_grad():
            loss = float(cross_entropy(head(judged[0]), judged[1], class_weights))
        if loss < best_loss:
            best, best_loss = {name: t.clone() for name, t in head.state_dict().items()}, loss
    if best is not None:
        head.load_state_dict(best)


def _fit(
    head: HeadLayer, standardised: Tensor, targets: Tensor, class_weights: Tensor, penalty: float
) -> None:
    """Minimise the mean log loss + |W|^2 n_features / (2 penalty n), from where the head stands."""
    strength = standardised.shape[1] / (2 * penalty * len(standardised))
    solver = torch.optim.LBFGS(
        [head.weight, head.bias],
        max_iter=_MOST_EVALUATIONS,
        max_eval=_MOST_EVALUATIONS,
        tolerance_change=_TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> Tensor:
        solver.zero_grad()
        scores = torch.nn.functional.linear(standardised, head.weight, head.bias)
        loss = cross_entropy(scores, targets, class_weights) + strength * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(evaluate)  # type: ignore[no-untyped-call]
    head.zero_grad(set_to_none=True)
