"""Every error tlserve raises on purpose: one root, branches that say who must act.

The edges (rpc, cli) translate branches, never leaves; a test walks this tree to prove that each
class has a gRPC status and an exit code.
"""

from __future__ import annotations

from typing import ClassVar


class TlserveError(Exception):
    """The root. `retryable` says whether the same call may succeed later without anyone acting."""

    retryable: ClassVar[bool] = False


# -- the caller of the API acts -------------------------------------------------------------------


class InvalidRequest(TlserveError):
    """The request itself is wrong; sending it again is useless."""


class BadImage(InvalidRequest):
    """Bytes that do not decode to an image, or to one larger than allowed."""


class BadInput(InvalidRequest):
    """An input tensor, parameter or name of the wrong kind, shape or type."""


class NotFound(TlserveError):
    """What was named does not exist."""


class UnknownModel(NotFound):
    def __init__(self, model: str, known: tuple[str, ...] = ()) -> None:
        hint = f"; models here: {', '.join(known)}" if known else "; no model is served here yet"
        super().__init__(f"unknown model {model!r}{hint}")
        self.model, self.known = model, known


class UnknownVersion(NotFound):
    def __init__(self, model: str, version: str, known: tuple[int, ...] = ()) -> None:
        hint = f"; versions: {', '.join(map(str, known))}" if known else ""
        super().__init__(f"model {model!r} has no version {version!r}{hint}")
        self.model, self.version, self.known = model, version, known


class NotReady(TlserveError):
    """The state does not allow the call yet; a person or more images must change it."""


class NotTrained(NotReady):
    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model {model!r} is not trained yet: {reason}")
        self.model, self.reason = model, reason


class Superseded(NotReady):
    def __init__(self, model: str, version: int, reason: str) -> None:
        super().__init__(f"model {model!r}: version {version} does not go live by itself: {reason}")
        self.model, self.version = model, version


# -- nobody acts: wait, or slow down --------------------------------------------------------------


class Unavailable(TlserveError):
    """This server cannot answer now; another one, or this one later, may."""

    retryable = True


class Draining(Unavailable):
    def __init__(self) -> None:
        super().__init__("the server is shutting down; try again when it is up, or ask another one")


class NotLoaded(Unavailable):
    def __init__(self, model: str, version: int, reason: str) -> None:
        super().__init__(f"model {model!r} version {version} cannot be loaded: {reason}")
        self.model, self.version, self.reason = model, version, reason


class BackboneCold(Unavailable):
    """The backbone is not in memory: it is being loaded, or waits until another one may leave."""


class QueueFull(TlserveError):
    retryable = True

    def __init__(self, *, waiting_rows: int, limit_rows: int) -> None:
        super().__init__(
            f"the queue is full ({waiting_rows} of {limit_rows} images wait); send fewer or retry later"
        )
        self.waiting_rows, self.limit_rows = waiting_rows, limit_rows


class DeadlinePassed(TlserveError):
    """The request's own deadline passed before its answer was ready."""

    retryable = True


# -- the person with the folders acts -------------------------------------------------------------


class DatasetError(TlserveError):
    """The watched folders do not allow training yet."""


class TooFewClasses(DatasetError):
    def __init__(self, *, model: str, found: int, detail: str = "") -> None:
        super().__init__(
            f"model {model!r}: 2 class folders with at least 2 usable images each are needed, "
            f"{found or 'none'} found{': ' + detail if detail else ''}"
        )
        self.model, self.found = model, found


class BadModelName(DatasetError):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"folder {name!r} cannot be a model: names are 1 to 64 characters of A-Z a-z 0-9 . _ - "
            "and begin with a letter or digit; rename the folder"
        )
        self.name = name


class MassDisappearance(DatasetError):
    def __init__(self, *, model: str, before: int, now: int) -> None:
        super().__init__(
            f"model {model!r}: {before - now} of {before} images disappeared at once; this is taken for an "
            "accident, and a live version goes on answering. Bring them back, or accept: tlserve retrain "
            f"{model} --accept-deletions (to remove the model, delete its folder and state/models/{model})"
        )
        self.model, self.before, self.now = model, before, now


# -- the operator acts ----------------------------------------------------------------------------


class OperatorError(TlserveError):
    """The installation, its settings or its disk need attention."""


class SettingsError(OperatorError):
    """A setting has a value that cannot work."""


class StrategyImpossible(SettingsError):
    """The strategy that the settings name cannot be done with this backbone."""

    def __init__(self, strategy: str, reason: str) -> None:
        what = "choose another strategy, or another backbone"
        super().__init__(f'strategy = "{strategy}" is impossible here: {reason}; {what}')
        self.strategy, self.reason = strategy, reason


class StateLocked(OperatorError):
    """Another process owns the state directory."""


class StoreUnavailable(OperatorError):
    """A file of the state directory cannot be read or written."""

    retryable = True


class CorruptState(OperatorError):
    """A file of the state directory does not hold what it must."""


class BackboneProblem(OperatorError):
    """A plugin or its weights do not keep their promise; the plugin is named in the text."""


class BackboneNotFound(BackboneProblem):
    """No installed plugin offers a backbone by this name."""


class BuildMismatch(BackboneProblem):
    """This host does not reproduce the reference rows stored with the build."""


class NonFiniteRow(BackboneProblem):
    """The backbone gave NaN or infinity for an image."""


class TrainerFailed(TlserveError):
    """The trainer process died or reported an unexpected error; it is restarted and the pass retried."""

    retryable = True
