"""predict_batch_udf over binaryFile, as NVIDIA's notebooks and their ResNet50 benchmark write it.

python -m benchmarks.peers.predict_batch_udf --images DIR --output OUT [--weights PATH --backbone resnet50-v1]
    [--function ours]

A pandas UDF decodes and resizes into flattened arrays, predict_batch_udf runs the network on batches of them; Spark keeps
the network in each worker. ``ours`` puts our decoder into the first and our encoder into the second.

Source: NVIDIA/spark-rapids-examples, Spark-DL/dl_inference/benchmark/spark_resnet.py; Spark's documentation of
predict_batch_udf.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql.functions import col
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import ArrayType, ByteType, DataType, FloatType

from benchmarks.peers.common import SIZE, Function, Task, from_pil, parse
from benchmarks.peers.spark import open_session, read_films
from cxrfeat.images import png_jpeg, preprocess

SETTINGS = {
    "spark.sql.execution.arrow.useLargeVarTypes": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1024",
}
"""As in NVIDIA's benchmark."""


def _prepare(contents: pd.Series) -> pd.Series:
    transform = from_pil()
    inputs = torch.stack([transform(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents])
    return pd.Series(list(inputs.numpy().reshape(len(contents), -1)))


def _prepare_ours(contents: pd.Series) -> pd.Series:
    # Spark's bytes are signed; the bits are what counts.
    return pd.Series(
        [preprocess.to_model_input(png_jpeg.decode(content).pixels).ravel().view(np.int8) for content in contents]
    )


def run(task: Task) -> None:
    """Embed everything."""
    spark = open_session("predict-batch-udf")
    for key, value in SETTINGS.items():
        spark.conf.set(key, value)
    ours = task.function == Function.OURS
    prepare: Callable[[pd.Series], pd.Series] = _prepare_ours if ours else _prepare
    element: DataType = ByteType() if ours else FloatType()

    @pandas_udf(ArrayType(element))  # type: ignore[call-overload, untyped-decorator]
    def to_inputs(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        yield from map(prepare, batches)

    def make_predict() -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        network = task.network()
        return lambda inputs: task.infer(torch.from_numpy(inputs), network)

    def make_predict_ours() -> Callable[[NDArray[np.int8]], NDArray[np.float32]]:
        encoder = task.encoder()
        return lambda inputs: task.encode(inputs.astype(np.int8).view(np.uint8), encoder)

    embed = predict_batch_udf(
        make_predict_ours if ours else make_predict,
        return_type=ArrayType(FloatType()),
        input_tensor_shapes=[list(SIZE) if ours else [3, *SIZE]],
        batch_size=task.batch_size,
    )
    films = read_films(spark, task.images).withColumn("inputs", to_inputs(col("content"))).drop("content")
    films.withColumn("embedding", embed(col("inputs"))).drop("inputs").write.parquet(task.output)
    spark.stop()


if __name__ == "__main__":
    run(parse(__doc__, [Function.DOCUMENTED, Function.OURS]))
