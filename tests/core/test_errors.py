"""Errors say who must act, and carry what they speak of."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from tlserve.core import errors
from tlserve.core.errors import TlserveError


def all_errors() -> list[Any]:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in kinds if issubclass(kind, BaseException)]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_has_the_one_root_and_says_what_it_is_for(kind: type[TlserveError]) -> None:
    assert issubclass(kind, TlserveError)
    assert isinstance(kind.retryable, bool)


def test_only_what_passes_by_itself_is_retryable() -> None:
    retryable = {kind.__name__ for kind in all_errors() if kind.retryable}
    assert retryable >= {"Unavailable", "Draining", "NotLoaded", "QueueFull", "DeadlinePassed"}
    assert not retryable & {"InvalidRequest", "BadImage", "UnknownModel", "DatasetError", "CorruptState"}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.UnknownModel("birds"), "unknown model 'birds'; no model is served here yet"),
        (errors.UnknownModel("birds", ("a", "b")), "unknown model 'birds'; models here: a, b"),
        (errors.UnknownVersion("a", "9", (1, 2)), "model 'a' has no version '9'; versions: 1, 2"),
        (errors.TooFewClasses(model="a", found=1), "model 'a': 2 class folders with at least 2 usable"),
        (errors.TooFewClasses(model="a", found=0, detail="why"), "none found: why"),
        (errors.MassDisappearance(model="a", before=10, now=2), "8 of 10 images disappeared"),
        (errors.QueueFull(waiting_rows=5, limit_rows=6), "5 of 6 images wait"),
        (errors.NotTrained("a", "no images"), "model 'a' is not trained yet: no images"),
        (errors.NotLoaded("a", 3, "gone"), "model 'a' version 3 cannot be loaded: gone"),
        (errors.BadModelName("é"), "rename the folder"),
    ],
)
def test_texts_name_the_thing_and_the_way_out(error: TlserveError, text: str) -> None:
    assert text in str(error)


def test_fields_can_be_read_without_the_text() -> None:
    error = errors.MassDisappearance(model="a", before=10, now=2)
    assert (error.model, error.before, error.now) == ("a", 10, 2)
    with pytest.raises(TlserveError):
        raise error


def test_plain_errors_survive_a_pickle() -> None:
    assert str(pickle.loads(pickle.dumps(errors.CorruptState("x")))) == "x"
