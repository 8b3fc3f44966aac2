"""How models learn: the settings that the daemon has defaults for and that a model.toml may override."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from tlserve.core.augmentation import policy
from tlserve.core.plan import HeadKind, Strategy, TuneWish, Wish


def _as_list(value: Any) -> Any:
    """Text is what a flag would say: a policy's name, or operations between commas."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _known_operations(value: tuple[str, ...]) -> tuple[str, ...]:
    policy(value)
    return value


Augment = Annotated[tuple[str, ...] | str, BeforeValidator(_as_list), AfterValidator(_known_operations)]
Unfreeze = Annotated[int, Field(ge=1)] | Literal["all", "auto"]
Head = HeadKind | Literal["auto"]
HowFar = Strategy | Literal["auto"]


class LearningDefaults(BaseModel):
    """What holds for every model that says nothing else."""

    head: Head = Field(default="auto", description="Head: auto, softmax, ovr, svm, ridge, projection or mlp.")
    strategy: HowFar = Field(
        default="auto", description="How deep to learn: auto, head, taps, finetune, finetune_all, scratch."
    )
    augment: Augment = Field(default=("light",), description="Augmented views: a policy or operations.")
    views: int = Field(default=2, ge=0, le=64, description="Augmented views of each training image.")
    mixup: bool = Field(default=False, description="Try mixtures of two images' features as examples.")
    large_images: int = Field(
        default=5_000, ge=1, description="From this many training images on, fine-tuning is considered."
    )
    novelty_budget_kb: int = Field(default=256, ge=16, description="Most kB of a head's novelty parameters.")
    unfreeze: Unfreeze = Field(default="auto", description="Blocks that fine-tuning changes: k, all, auto.")
    tune_epochs: int = Field(default=12, ge=1, description="Most epochs of a fine-tuning.")
    tune_minutes: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="strategy = auto begins no fine-tuning estimated to take longer.",
    )
    activation_cache_gb: float = Field(
        default=4.0,
        ge=0,
        allow_inf_nan=False,
        description="Disk that fine-tuning may use to cache activations.",
    )
    instant: bool = Field(
        default=True, description="Answer a change by the best head that is had at once, then refine it."
    )
    instant_budget_seconds: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="What learning that head may take."
    )
    first_images: int = Field(
        default=1_000, ge=0, description="Images that a model's first version is learnt from; 0: all."
    )
    study: bool = Field(
        default=True, description="Look for a better version in the background once one is live."
    )


class LearningOverrides(BaseModel):
    """What one model's model.toml may say instead."""

    head: Head | None = None
    strategy: HowFar | None = None
    augment: Augment | None = None
    views: int | None = Field(default=None, ge=0, le=64)
    mixup: bool | None = None
    large_images: int | None = Field(default=None, ge=1)
    novelty_budget_kb: int | None = Field(default=None, ge=16)
    unfreeze: Unfreeze | None = None
    tune_epochs: int | None = Field(default=None, ge=1)
    tune_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    activation_cache_gb: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    instant: bool | None = None
    instant_budget_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    first_images: int | None = Field(default=None, ge=0)
    study: bool | None = None


def learning(general: LearningDefaults, own: LearningOverrides) -> LearningDefaults:
    """The defaults with the model's own settings put over them."""
    said = {name: getattr(own, name) for name in LearningDefaults.model_fields}
    return LearningDefaults.model_construct(
        **{name: getattr(general, name) if value is None else value for name, value in said.items()}
    )


def wish_of(settings: LearningDefaults) -> Wish:
    """The same as the two processes exchange it."""
    return Wish(
        head=settings.head,
        strategy=settings.strategy,
        augment=tuple(settings.augment),
        views=settings.views,
        mixup=settings.mixup,
        large_images=settings.large_images,
        novelty_budget_kb=settings.novelty_budget_kb,
        tune=TuneWish(
            unfreeze=settings.unfreeze,
            epochs=settings.tune_epochs,
            activation_cache_gb=settings.activation_cache_gb,
            budget_minutes=settings.tune_minutes,
        ),
    )
