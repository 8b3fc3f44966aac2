from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "version", "images", "top_k", "id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    images: _containers.RepeatedScalarFieldContainer[bytes]
    top_k: int
    id: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., images: _Optional[_Iterable[bytes]] = ..., top_k: _Optional[int] = ..., id: _Optional[str] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("model", "version", "results", "id", "error")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    results: _containers.RepeatedCompositeFieldContainer[Classification]
    id: str
    error: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., results: _Optional[_Iterable[_Union[Classification, _Mapping]]] = ..., id: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("label", "probability", "top", "novelty", "unknown")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    top: _containers.RepeatedCompositeFieldContainer[LabelProbability]
    novelty: float
    unknown: bool
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ..., top: _Optional[_Iterable[_Union[LabelProbability, _Mapping]]] = ..., novelty: _Optional[float] = ..., unknown: _Optional[bool] = ...) -> None: ...

class LabelProbability(_message.Message):
    __slots__ = ("label", "probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelSummary]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelSummary, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ModelSummary(_message.Message):
    __slots__ = ("model", "phase", "ready", "live", "previous", "promotion", "images", "counts", "accuracy", "accuracy_low", "accuracy_high", "backbone", "message", "problems", "n_problems", "done", "total", "per_second", "seconds_left", "wanted_backbone")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_LOW_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_HIGH_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    N_PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    WANTED_BACKBONE_FIELD_NUMBER: _ClassVar[int]
    model: str
    phase: str
    ready: bool
    live: int
    previous: int
    promotion: str
    images: int
    counts: _containers.ScalarMap[str, int]
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    backbone: str
    message: str
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    n_problems: int
    done: int
    total: int
    per_second: float
    seconds_left: float
    wanted_backbone: str
    def __init__(self, model: _Optional[str] = ..., phase: _Optional[str] = ..., ready: _Optional[bool] = ..., live: _Optional[int] = ..., previous: _Optional[int] = ..., promotion: _Optional[str] = ..., images: _Optional[int] = ..., counts: _Optional[_Mapping[str, int]] = ..., accuracy: _Optional[float] = ..., accuracy_low: _Optional[float] = ..., accuracy_high: _Optional[float] = ..., backbone: _Optional[str] = ..., message: _Optional[str] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., n_problems: _Optional[int] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., per_second: _Optional[float] = ..., seconds_left: _Optional[float] = ..., wanted_backbone: _Optional[str] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("kind", "where", "reason")
    KIND_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    where: str
    reason: str
    def __init__(self, kind: _Optional[str] = ..., where: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[VersionLine]
    def __init__(self, versions: _Optional[_Iterable[_Union[VersionLine, _Mapping]]] = ...) -> None: ...

class VersionLine(_message.Message):
    __slots__ = ("version", "state", "images", "classes", "accuracy", "backbone", "created", "reason", "drop_to_live_seconds", "pinned", "instant", "timeline")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DROP_TO_LIVE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    INSTANT_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    version: int
    state: str
    images: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    accuracy: float
    backbone: str
    created: str
    reason: str
    drop_to_live_seconds: float
    pinned: bool
    instant: bool
    timeline: _containers.RepeatedCompositeFieldContainer[Step]
    def __init__(self, version: _Optional[int] = ..., state: _Optional[str] = ..., images: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ..., accuracy: _Optional[float] = ..., backbone: _Optional[str] = ..., created: _Optional[str] = ..., reason: _Optional[str] = ..., drop_to_live_seconds: _Optional[float] = ..., pinned: _Optional[bool] = ..., instant: _Optional[bool] = ..., timeline: _Optional[_Iterable[_Union[Step, _Mapping]]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("name", "seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    seconds: float
    def __init__(self, name: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class GetReportRequest(_message.Message):
    __slots__ = ("model", "version", "html")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HTML_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    html: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., html: _Optional[bool] = ...) -> None: ...

class GetReportResponse(_message.Message):
    __slots__ = ("json", "html")
    JSON_FIELD_NUMBER: _ClassVar[int]
    HTML_FIELD_NUMBER: _ClassVar[int]
    json: str
    html: str
    def __init__(self, json: _Optional[str] = ..., html: _Optional[str] = ...) -> None: ...

class WatchModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ModelEvent(_message.Message):
    __slots__ = ("model", "at", "kind", "message", "phase", "version", "done", "total", "per_second", "seconds_left")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    model: str
    at: float
    kind: str
    message: str
    phase: str
    version: int
    done: int
    total: int
    per_second: float
    seconds_left: float
    def __init__(self, model: _Optional[str] = ..., at: _Optional[float] = ..., kind: _Optional[str] = ..., message: _Optional[str] = ..., phase: _Optional[str] = ..., version: _Optional[int] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., per_second: _Optional[float] = ..., seconds_left: _Optional[float] = ...) -> None: ...

class RetrainRequest(_message.Message):
    __slots__ = ("model", "accept_deletions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_DELETIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    accept_deletions: bool
    def __init__(self, model: _Optional[str] = ..., accept_deletions: _Optional[bool] = ...) -> None: ...

class RetrainResponse(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("model", "version", "unpin")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UNPIN_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    unpin: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., unpin: _Optional[bool] = ...) -> None: ...

class SetPromotionRequest(_message.Message):
    __slots__ = ("model", "mode")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    model: str
    mode: str
    def __init__(self, model: _Optional[str] = ..., mode: _Optional[str] = ...) -> None: ...

class SetBackboneRequest(_message.Message):
    __slots__ = ("model", "backbone")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    model: str
    backbone: str
    def __init__(self, model: _Optional[str] = ..., backbone: _Optional[str] = ...) -> None: ...

class CompareRequest(_message.Message):
    __slots__ = ("model", "backbones")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BACKBONES_FIELD_NUMBER: _ClassVar[int]
    model: str
    backbones: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., backbones: _Optional[_Iterable[str]] = ...) -> None: ...

class CompareResponse(_message.Message):
    __slots__ = ("json", "html")
    JSON_FIELD_NUMBER: _ClassVar[int]
    HTML_FIELD_NUMBER: _ClassVar[int]
    json: str
    html: str
    def __init__(self, json: _Optional[str] = ..., html: _Optional[str] = ...) -> None: ...

class AddImagesRequest(_message.Message):
    __slots__ = ("model", "label", "images")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    model: str
    label: str
    images: _containers.RepeatedCompositeFieldContainer[NewImage]
    def __init__(self, model: _Optional[str] = ..., label: _Optional[str] = ..., images: _Optional[_Iterable[_Union[NewImage, _Mapping]]] = ...) -> None: ...

class NewImage(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class AddImagesResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[AddedImage]
    def __init__(self, images: _Optional[_Iterable[_Union[AddedImage, _Mapping]]] = ...) -> None: ...

class AddedImage(_message.Message):
    __slots__ = ("path", "digest", "already_there")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ALREADY_THERE_FIELD_NUMBER: _ClassVar[int]
    path: str
    digest: str
    already_there: bool
    def __init__(self, path: _Optional[str] = ..., digest: _Optional[str] = ..., already_there: _Optional[bool] = ...) -> None: ...

class ListBackbonesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBackbonesResponse(_message.Message):
    __slots__ = ("backbones",)
    BACKBONES_FIELD_NUMBER: _ClassVar[int]
    backbones: _containers.RepeatedCompositeFieldContainer[BackboneLine]
    def __init__(self, backbones: _Optional[_Iterable[_Union[BackboneLine, _Mapping]]] = ...) -> None: ...

class BackboneLine(_message.Message):
    __slots__ = ("name", "plugin", "detail", "error", "licence", "n_parameters", "height", "width", "row_width", "images_per_second", "measured")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    N_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    ROW_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    name: str
    plugin: str
    detail: str
    error: str
    licence: str
    n_parameters: int
    height: int
    width: int
    row_width: int
    images_per_second: float
    measured: str
    def __init__(self, name: _Optional[str] = ..., plugin: _Optional[str] = ..., detail: _Optional[str] = ..., error: _Optional[str] = ..., licence: _Optional[str] = ..., n_parameters: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., row_width: _Optional[int] = ..., images_per_second: _Optional[float] = ..., measured: _Optional[str] = ...) -> None: ...

class GetBackboneRequest(_message.Message):
    __slots__ = ("name", "measure")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    name: str
    measure: bool
    def __init__(self, name: _Optional[str] = ..., measure: _Optional[bool] = ...) -> None: ...

class Backbone(_message.Message):
    __slots__ = ("name", "plugin", "source", "licence", "n_parameters", "weights_origin", "weights_sha256", "build_version", "image", "taps", "trainable", "build", "build_folder", "build_bytes", "speeds", "declared_name", "precision", "trial")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    N_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    BUILD_VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    BUILD_FOLDER_FIELD_NUMBER: _ClassVar[int]
    BUILD_BYTES_FIELD_NUMBER: _ClassVar[int]
    SPEEDS_FIELD_NUMBER: _ClassVar[int]
    DECLARED_NAME_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    plugin: str
    source: str
    licence: str
    n_parameters: int
    weights_origin: str
    weights_sha256: str
    build_version: str
    image: ImageSpec
    taps: _containers.RepeatedCompositeFieldContainer[Tap]
    trainable: bool
    build: str
    build_folder: str
    build_bytes: int
    speeds: _containers.RepeatedCompositeFieldContainer[Speed]
    declared_name: str
    precision: str
    trial: PrecisionTrial
    def __init__(self, name: _Optional[str] = ..., plugin: _Optional[str] = ..., source: _Optional[str] = ..., licence: _Optional[str] = ..., n_parameters: _Optional[int] = ..., weights_origin: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., build_version: _Optional[str] = ..., image: _Optional[_Union[ImageSpec, _Mapping]] = ..., taps: _Optional[_Iterable[_Union[Tap, _Mapping]]] = ..., trainable: _Optional[bool] = ..., build: _Optional[str] = ..., build_folder: _Optional[str] = ..., build_bytes: _Optional[int] = ..., speeds: _Optional[_Iterable[_Union[Speed, _Mapping]]] = ..., declared_name: _Optional[str] = ..., precision: _Optional[str] = ..., trial: _Optional[_Union[PrecisionTrial, _Mapping]] = ...) -> None: ...

class PrecisionTrial(_message.Message):
    __slots__ = ("chosen", "tried", "reason", "n_images", "accuracy", "accuracy_tried", "images_per_second", "images_per_second_tried", "hardware", "decided_at")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    TRIED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    N_IMAGES_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_TRIED_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SECOND_TRIED_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    chosen: str
    tried: str
    reason: str
    n_images: int
    accuracy: float
    accuracy_tried: float
    images_per_second: float
    images_per_second_tried: float
    hardware: str
    decided_at: float
    def __init__(self, chosen: _Optional[str] = ..., tried: _Optional[str] = ..., reason: _Optional[str] = ..., n_images: _Optional[int] = ..., accuracy: _Optional[float] = ..., accuracy_tried: _Optional[float] = ..., images_per_second: _Optional[float] = ..., images_per_second_tried: _Optional[float] = ..., hardware: _Optional[str] = ..., decided_at: _Optional[float] = ...) -> None: ...

class ImageSpec(_message.Message):
    __slots__ = ("height", "width", "resize_short_side", "mean", "std", "crop", "interpolation", "layout", "channel_order")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    RESIZE_SHORT_SIDE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_ORDER_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    resize_short_side: int
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    crop: str
    interpolation: str
    layout: str
    channel_order: str
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., resize_short_side: _Optional[int] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., crop: _Optional[str] = ..., interpolation: _Optional[str] = ..., layout: _Optional[str] = ..., channel_order: _Optional[str] = ...) -> None: ...

class Tap(_message.Message):
    __slots__ = ("name", "width")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    width: int
    def __init__(self, name: _Optional[str] = ..., width: _Optional[int] = ...) -> None: ...

class Speed(_message.Message):
    __slots__ = ("of", "batch_size", "images_per_second", "device", "hardware", "threads", "measured_at")
    OF_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    MEASURED_AT_FIELD_NUMBER: _ClassVar[int]
    of: str
    batch_size: int
    images_per_second: float
    device: str
    hardware: str
    threads: int
    measured_at: float
    def __init__(self, of: _Optional[str] = ..., batch_size: _Optional[int] = ..., images_per_second: _Optional[float] = ..., device: _Optional[str] = ..., hardware: _Optional[str] = ..., threads: _Optional[int] = ..., measured_at: _Optional[float] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ExportChunk(_message.Message):
    __slots__ = ("data", "total_bytes")
    DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    total_bytes: int
    def __init__(self, data: _Optional[bytes] = ..., total_bytes: _Optional[int] = ...) -> None: ...
