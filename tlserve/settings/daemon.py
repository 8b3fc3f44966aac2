"""The daemon's settings, each with its unit. The only place, with `model.py`, that knows pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tlserve.core.device_choice import read_device_choice
from tlserve.core.errors import SettingsError
from tlserve.core.lifecycle import Promotion
from tlserve.core.precision import Precision
from tlserve.settings.learning import LearningDefaults
from tlserve.settings.mistakes import describe


class Settings(LearningDefaults, BaseSettings):
    """Everything `tlserve serve` can be told."""

    model_config = SettingsConfigDict(env_prefix="TLSERVE_", extra="forbid", frozen=True, toml_file=None)

    watch: Path = Field(default=Path("watch"), description="Folder that holds one folder per model.")
    state: Path = Field(
        default=Path("state"), description="Folder for everything tlserve keeps; on a local disk."
    )
    backbone: str = Field(default="nano", description="Backbone of models whose model.toml names none.")
    precision: Precision = Field(
        default=Precision.AUTO, description="Numbers of the backbone: auto, fp32, fp16 or int8."
    )
    grpc: str = Field(default="127.0.0.1:8001", description="HOST:PORT of gRPC; port 0 takes a free one.")
    http: str = Field(
        default="127.0.0.1:8000", description="HOST:PORT of HTTP (liveness and readiness); empty: off."
    )
    metrics: str = Field(default="127.0.0.1:8002", description="HOST:PORT of Prometheus metrics; empty: off.")
    device: str = Field(
        default="auto", description="Where backbones run: auto, cpu, cuda, or GPUs such as cuda:0,cuda:1."
    )
    gpu_memory_mb: int = Field(
        default=0, ge=0, description="Most GPU memory of one open backbone, in MiB; 0: no limit."
    )
    tensorrt: bool = Field(default=False, description="Run served backbones in TensorRT, on a GPU.")
    threads: int = Field(default=0, ge=0, description="CPU threads of one batch; 0: by the machine.")
    settle_seconds: float = Field(
        default=0.5, ge=0, description="A model's folder must be quiet for this long."
    )
    max_wait_seconds: float = Field(default=10.0, gt=0, description="...or this long since its first change.")
    reconcile_seconds: float = Field(
        default=60.0, gt=0, description="Least time between two looks at all folders."
    )
    polling: Literal["auto", "always", "never"] = Field(
        default="auto", description="Poll where there are no events."
    )
    follow_symlinks: bool = Field(default=False, description="Read images behind symbolic links.")
    max_pixels: int = Field(default=64_000_000, gt=0, description="Largest image, width x height, in pixels.")
    max_message_mb: int = Field(default=64, gt=0, le=2047, description="Largest gRPC message, in MiB.")
    promotion: Promotion = Field(
        default=Promotion.AUTO, description="Who promotes: auto (the judge), manual, frozen."
    )
    max_drop: float = Field(
        default=0.01, ge=0, le=1, description="Accepted loss of accuracy (0.01: one point)."
    )
    recall_floor: float = Field(default=0.0, ge=0, le=1, description="Recall under which no class may fall.")
    unknown_threshold: float = Field(
        default=0.99, ge=0, le=1, description="Novelty above which `unknown` is true."
    )
    keep_versions: int = Field(default=20, ge=2, description="How many promoted versions are kept on disk.")
    max_batch: int = Field(default=32, ge=1, description="Most images in one backbone run.")
    batch_target_ms: float = Field(
        default=20.0, ge=0, description="A batch holds what is expected to run within this; 0: max_batch."
    )
    max_backbones: int = Field(default=0, ge=0, description="Most backbones in memory at once; 0: no limit.")
    memory_limit_mb: int = Field(
        default=0, ge=0, description="Most MiB that backbones take in memory together; 0: no limit."
    )
    load_patience_seconds: float = Field(
        default=10.0, ge=0, description="How long a request waits for a backbone that is not in memory."
    )
    queue_rows: int = Field(
        default=1024, ge=1, description="Most images that may wait; beyond, RESOURCE_EXHAUSTED."
    )
    drain_seconds: float = Field(default=20.0, ge=0, description="Time for in-flight requests at shutdown.")
    gram_cache_mb: int = Field(
        default=512, ge=0, description="Most MiB that the trainer keeps of what makes fast heads fast."
    )
    plugin_folders: tuple[Path, ...] = Field(
        default=(), description="Folders of single-file backbone plugins."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What to log."
    )

    @field_validator("device")
    @classmethod
    def _is_device(cls, value: str) -> str:
        read_device_choice(value)
        return value

    @field_validator("grpc", "http", "metrics")
    @classmethod
    def _is_address(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if value and not (host and colon and port.isdigit() and int(port) < 65536):
            raise ValueError("must look like HOST:PORT, for example 127.0.0.1:8001")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(flags: Mapping[str, Any], config_file: Path | None = None) -> Settings:
    """Settings from `flags` (None: not given), then TLSERVE_* variables, then a TOML file.

    config_file: must exist when given; without one, ``tlserve.toml`` in the working directory is read if
    it is there. Raises SettingsError naming the setting and what is wrong with it.
    """
    if config_file is not None and not config_file.is_file():
        raise SettingsError(f"no settings file at {config_file}")
    source = config_file or Path("tlserve.toml")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=source if source.is_file() else None)

    try:
        loaded = FromFile(**{name: value for name, value in flags.items() if value is not None})
        return Settings.model_construct(**{name: getattr(loaded, name) for name in Settings.model_fields})
    except ValidationError as exc:
        raise SettingsError(describe(exc, "settings")) from exc
    except ValueError as exc:
        raise SettingsError(f"{source}: {exc}") from exc
