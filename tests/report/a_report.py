"""A full report as the trainer writes it: judged, scored and checked by the real core, on made-up answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from tlserve.core.health import Alike, Duplicates, data_health
from tlserve.core.judge import Answers, Policy, judge
from tlserve.core.scores import hardest, score
from tlserve.core.types import LabelledImage, Problem, Snapshot, Split

LABELS = ("daisy", "roses", "tulips")


def answers(truth: list[str], labels: tuple[str, ...], *, skill: float, seed: int) -> Answers:
    """Probabilities that favour the truth by `skill`, give or take."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(len(truth), len(labels)))
    scores[np.arange(len(truth)), [labels.index(label) for label in truth]] += skill
    exp = np.exp(scores)
    return Answers(labels, (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32))


def full_report(labels: tuple[str, ...] = LABELS, n_each: int = 40) -> dict[str, Any]:
    """Every part that a report can have, through JSON and back."""
    truth = [label for label in labels for _ in range(n_each)]
    columns = np.array([labels.index(label) for label in truth])
    mine = answers(truth, labels, skill=2.5, seed=0)
    live = answers(truth, labels, skill=2.0, seed=1)
    images = [
        LabelledImage(f"{n:064x}", label, Split.HELD_OUT, f"{label}/{n}.jpg") for n, label in enumerate(truth)
    ]
    problems = (Problem("bad_image", f"{labels[0]}/broken.jpg", "truncated file"),)
    snapshot = Snapshot("flowers", "0" * 64, tuple(images), problems)
    pair = (images[0].path, images[1].path)
    health = data_health(snapshot, Duplicates(near=Alike((pair,), 1, 2)))
    report = {
        "model": "flowers",
        "version": 7,
        "created": "2026-01-02T03:04:05+00:00",
        "backbone": {"name": "nano", "build": "ab" * 32, "tuned_from": "cd" * 32},
        "images": {"counts": snapshot.counts, "train": 4 * len(truth), "held_out": len(truth)},
        "decision": asdict(judge(truth, mine, live, Policy())),
        "evaluation": {
            "held_out": asdict(score(truth, mine)),
            "out_of_fold": asdict(score(truth, answers(truth, labels, skill=2.4, seed=2))),
        },
        "health": asdict(health),
        "hardest": [
            {"path": images[one.position].path, "label": one.label, "predicted": one.answer}
            | {"probability": one.probability, "side": "held_out"}
            for one in hardest(columns, mine, 24)
        ],
        "mislabelled": [
            {"path": images[n].path, "given": labels[0], "suggested": labels[1], "score": 0.9}
            for n in range(3)
        ],
        "problems": [{"kind": "unreadable", "where": "tulips/locked", "reason": "permission denied"}],
        "n_problems": 1,
        "timeline": {"scanning": 0.4, "extracting": 14.2, "training": 6.3},
        **_made(),
    }
    return json.loads(json.dumps(report))  # type: ignore[no-any-return]


def _made() -> dict[str, Any]:
    """What training writes of itself."""
    return {
        "plan": {
            "taps": ["features"],
            "head": "softmax",
            "strategy": "head",
            "augment": ["light"],
            "views": 3,
        },
        "strategy": {
            "strategy": "head",
            "taps": ["features"],
            "quadrant": {"size": "small", "likeness": "similar"},
            "reason": "the last features tell the classes apart already",
            "alternatives": [{"strategy": "finetune", "why_not": "too few images"}],
            "numbers": {"similarity": 0.97, "n_images": 480, "thresholds": {"least_gain": 0.01}},
            "by_taps": [
                {
                    "taps": ["features"],
                    "n_features": 128,
                    "accuracy": 0.9,
                    "standard_error": 0.01,
                    "log_me": 0.4,
                },
                {
                    "taps": ["stage1"],
                    "n_features": 24,
                    "accuracy": 0.7,
                    "standard_error": 0.02,
                    "log_me": 0.1,
                },
            ],
        },
        "training": {
            "kind": "softmax",
            "temperature": 1.2,
            "choice": "softmax: the simplest of those that do as well",
            "comparison": [
                {"kind": "ridge", "chosen": False, "cv_accuracy": 0.89, "why_not": "less accurate"},
                {
                    "kind": "softmax",
                    "chosen": True,
                    "cv_accuracy": 0.9,
                    "nll": 0.3,
                    "ece": 0.02,
                    "seconds": 1.0,
                }
                | {"setting": {"C": 0.01}},
                {"kind": "mlp", "chosen": False, "why_not": "left out: too dear"},
            ],
            "out_of_fold": {"nll_before": 0.4, "nll_after": 0.35, "ece_before": 0.05, "ece_after": 0.01},
            "mixup": {"kept": False, "accuracy_gain": 0.001, "nll_gain": -0.01, "seconds": 0.5},
        },
        "augmentation": {
            "policy": "light",
            "views": 3,
            "accuracy_without": 0.9,
            "accuracy_with": 0.912,
            "gain": 0.012,
            "standard_error": 0.004,
            "kept": True,
            "reason": "light views helped",
        },
        "tuning": {
            "reason": "the last 4 blocks of 17 learnt",
            "epochs": [
                {
                    "epoch": n,
                    "loss": 1 / n if n else None,
                    "validation_accuracy": 0.9 + n / 100,
                    "seconds": 8.0,
                }
                for n in range(6)
            ],
            "best_epoch": 5,
            "validation_accuracy_before": 0.9,
            "cache_bytes": 123_000_000,
            "options": {"unfreeze": "auto", "epochs": 20},
            "notes": ["the batch was halved"],
        },
        "learning_curve": {
            "points": [
                {"n_images": 12 * 2**n, "accuracy": 0.7 + n / 20, "low": 0.6 + n / 20, "high": 0.8 + n / 20}
                for n in range(4)
            ],
            "reading": "More images would probably still help.",
        },
    }
