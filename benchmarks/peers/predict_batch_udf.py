"""predict_batch_udf over binaryFile, as NVIDIA's notebooks and their ResNet50 benchmark write it.

A pandas UDF decodes and resizes into flat arrays, predict_batch_udf runs the network on batches of them; Spark keeps
the network in each worker.

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
from pyspark.sql.types import ArrayType, FloatType

from benchmarks.peers.common import FROM_PIL, SIZE, PeerTask, parse
from benchmarks.peers.spark import open_session, read_images

SETTINGS = {
    "spark.sql.execution.arrow.useLargeVarTypes": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1024",
}
"""As in NVIDIA's benchmark."""


@pandas_udf(ArrayType(FloatType()))  # type: ignore[call-overload, untyped-decorator]
def to_inputs(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
    """Decode and resize files into flat model inputs."""
    for contents in batches:
        inputs = [FROM_PIL(Image.open(io.BytesIO(content)).convert("RGB")).numpy() for content in contents]
        yield pd.Series([image.ravel() for image in inputs])


def run(task: PeerTask) -> None:
    """Embed all images."""
    spark = open_session("predict-batch-udf")
    for key, value in SETTINGS.items():
        spark.conf.set(key, value)

    def make_predict() -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        network = task.network()
        return lambda inputs: task.infer(torch.from_numpy(inputs), network)

    embed = predict_batch_udf(
        make_predict,
        return_type=ArrayType(FloatType()),
        input_tensor_shapes=[[3, *SIZE]],
        batch_size=task.batch_size,
    )
    images = read_images(spark, task.images).withColumn("inputs", to_inputs(col("content"))).drop("content")
    images.withColumn("embedding", embed(col("inputs"))).drop("inputs").write.parquet(task.output)
    spark.stop()


if __name__ == "__main__":
    run(parse(__doc__))
