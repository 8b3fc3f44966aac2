"""What a served model says of itself: metadata, configuration, statistics, repository index."""

from __future__ import annotations

from tlserve.rpc._gen import inference_pb2 as oip
from tlserve.rpc._gen import model_config_pb2 as config_pb
from tlserve.rpc.backend import Duration, ModelStatistics, ModelSummary, ServedModelInfo
from tlserve.rpc.tensors import IMAGE, PIXELS

PLATFORM = "tlserve"


def metadata(served: ServedModelInfo) -> oip.ModelMetadataResponse:
    """Inputs and outputs with their whole shapes; -1 is any size."""
    tensor = oip.ModelMetadataResponse.TensorMetadata
    n_classes = len(served.labels)
    return oip.ModelMetadataResponse(
        name=served.model,
        versions=[str(number) for number in served.versions],
        platform=PLATFORM,
        inputs=[
            tensor(name=IMAGE, datatype="BYTES", shape=[-1]),
            tensor(name=PIXELS, datatype="UINT8", shape=[-1, -1, -1, 3]),
        ],
        outputs=[
            tensor(name="label", datatype="BYTES", shape=[-1]),
            tensor(name="probabilities", datatype="FP32", shape=[-1, n_classes]),
            tensor(name="classes", datatype="BYTES", shape=[n_classes]),
            tensor(name="features", datatype="FP32", shape=[-1, served.n_features]),
            tensor(name="novelty", datatype="FP32", shape=[-1]),
            tensor(name="unknown", datatype="BOOL", shape=[-1]),
        ],
    )


def config(served: ServedModelInfo) -> config_pb.ModelConfig:
    """The same in Triton's words: dims without the batch dimension, both inputs optional.

    `classes` is the one output without a batch dimension; its dims are its whole shape.
    """
    field, output = config_pb.ModelInput, config_pb.ModelOutput
    n_classes = len(served.labels)
    return config_pb.ModelConfig(
        name=served.model,
        platform=PLATFORM,
        backend=PLATFORM,
        version_policy=config_pb.ModelVersionPolicy(
            specific=config_pb.ModelVersionPolicy.Specific(versions=served.versions)
        ),
        max_batch_size=served.max_batch,
        input=[
            field(name=IMAGE, data_type=config_pb.TYPE_STRING, dims=[1], optional=True),
            field(
                name=PIXELS,
                data_type=config_pb.TYPE_UINT8,
                format=config_pb.ModelInput.FORMAT_NHWC,
                dims=[-1, -1, 3],
                optional=True,
            ),
        ],
        output=[
            output(name="label", data_type=config_pb.TYPE_STRING),
            output(name="probabilities", data_type=config_pb.TYPE_FP32, dims=[n_classes]),
            output(name="classes", data_type=config_pb.TYPE_STRING, dims=[n_classes]),
            output(name="features", data_type=config_pb.TYPE_FP32, dims=[served.n_features]),
            output(name="novelty", data_type=config_pb.TYPE_FP32),
            output(name="unknown", data_type=config_pb.TYPE_BOOL),
        ],
        dynamic_batching=config_pb.ModelDynamicBatching(),
        parameters={
            "height": config_pb.ModelParameter(string_value=str(served.height)),
            "width": config_pb.ModelParameter(string_value=str(served.width)),
            "version": config_pb.ModelParameter(string_value=str(served.version)),
        },
        model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=False),
    )


def statistics(line: ModelStatistics) -> oip.ModelStatistics:
    return oip.ModelStatistics(
        name=line.model,
        version=str(line.version),
        last_inference=line.last_inference_ms,
        inference_count=line.inference_count,
        execution_count=line.execution_count,
        inference_stats=oip.InferStatistics(
            success=_duration(line.success),
            fail=_duration(line.fail),
            queue=_duration(line.queue),
            compute_input=_duration(line.compute_input),
            compute_infer=_duration(line.compute_infer),
            compute_output=_duration(line.compute_output),
        ),
    )


def index(line: ModelSummary) -> oip.RepositoryIndexResponse.ModelIndex:
    return oip.RepositoryIndexResponse.ModelIndex(
        name=line.model,
        version="" if line.live is None else str(line.live),
        state="READY" if line.ready else "UNAVAILABLE",
        reason="" if line.ready else line.message,
    )


def _duration(duration: Duration) -> oip.StatisticDuration:
    return oip.StatisticDuration(count=duration.count, ns=duration.total_ns)
