"""Small Keras networks with random weights, as ONNX files: ``python keras_graphs.py FOLDER [--only NAME]``.

Runs in an environment of its own (``pip install tensorflow-cpu tf2onnx onnxruntime``), without fewbits. Each network is
written by tf2onnx from its ``tf.function``, and by Keras's own ``model.export(format="onnx")``, as
``EXPORTER--NAME.onnx`` with inputs beside it (``.npz``); `exported_graphs.py --given FOLDER` reads both. Images have
their channels last, as in TensorFlow, so that the exporter puts transposes around every convolution.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from keras import layers

SAMPLES = 48
OPSET = 17
WORDS, LENGTH = 120, 16

Inputs = dict[str, np.ndarray]
Network = tuple[keras.Model, Inputs]


def images(size: int) -> Inputs:
    """Smooth noise, channels last."""
    small = np.random.default_rng(0).standard_normal((SAMPLES, size // 8, size // 8, 3)).astype(np.float32)
    return {"x": small.repeat(8, axis=1).repeat(8, axis=2) + np.float32(0.1)}


def words() -> Inputs:
    """Words at random; 0 pads."""
    rng = np.random.default_rng(0)
    found = rng.integers(1, WORDS, (SAMPLES, LENGTH))
    found[np.arange(LENGTH) >= rng.integers(4, LENGTH + 1, (SAMPLES, 1))] = 0
    return {"x": found.astype(np.int32)}


def rows() -> Inputs:
    """Sequences of 24 numbers."""
    return {"x": np.random.default_rng(1).standard_normal((SAMPLES, LENGTH, 24)).astype(np.float32)}


def on_images(body: Callable[[keras.KerasTensor], keras.KerasTensor], size: int = 32) -> Network:
    """A network over images."""
    inputs = keras.Input((size, size, 3), name="x")
    return keras.Model(inputs, body(inputs)), images(size)


def on_words(body: Callable[[keras.KerasTensor], keras.KerasTensor]) -> Network:
    """A network over embedded words."""
    inputs = keras.Input((LENGTH,), dtype="int32", name="x")
    return keras.Model(inputs, body(inputs)), words()


def on_rows(body: Callable[[keras.KerasTensor], keras.KerasTensor]) -> Network:
    """A network over sequences."""
    inputs = keras.Input((LENGTH, 24), name="x")
    return keras.Model(inputs, body(inputs)), rows()


def _conv(x: keras.KerasTensor, filters: int, activation: str = "relu6", **more: object) -> keras.KerasTensor:
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, **more)(x)
    return layers.Activation(activation)(layers.BatchNormalization()(x))


def _head(x: keras.KerasTensor, classes: int = 10) -> keras.KerasTensor:
    return layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling2D()(x))


def _depthwise(x: keras.KerasTensor, filters: int, stride: int = 1) -> keras.KerasTensor:
    x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.Conv2D(filters, 1, use_bias=False)(x))
    return layers.ReLU(6.0)(x)


def _mobile(x: keras.KerasTensor) -> keras.KerasTensor:
    x = _conv(x, 16, strides=2)
    for filters, stride in ((32, 1), (64, 2), (64, 1)):
        x = _depthwise(x, filters, stride)
    return _head(x)


def _residual(x: keras.KerasTensor) -> keras.KerasTensor:
    x = _conv(x, 16, "relu")
    for filters in (16, 32):
        short = layers.Conv2D(filters, 1, strides=2)(x)
        x = _conv(x, filters, "relu", strides=2)
        x = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(x))
        x = layers.ReLU()(layers.Add()([x, short]))
    return _head(x)


def _squeeze(x: keras.KerasTensor) -> keras.KerasTensor:
    x = _conv(x, 16, "silu", strides=2)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="silu")(gate)
    gate = layers.Conv2D(16, 1, activation="hard_sigmoid")(gate)
    return _head(_conv(layers.Multiply()([x, gate]), 32, "hard_silu"))


def _unet(x: keras.KerasTensor) -> keras.KerasTensor:
    first = _conv(x, 8, "relu")
    second = _conv(layers.MaxPooling2D(2)(first), 16, "relu")
    third = _conv(layers.AveragePooling2D(2)(second), 24, "leaky_relu")
    up = layers.Conv2DTranspose(16, 2, strides=2)(third)
    up = _conv(layers.Concatenate()([up, second]), 16, "relu")
    up = layers.UpSampling2D(interpolation="bilinear")(up)
    return layers.Conv2D(2, 1, activation="sigmoid")(layers.Concatenate()([up, first]))


def _inception(x: keras.KerasTensor) -> keras.KerasTensor:
    x = layers.Rescaling(0.5, offset=0.1)(x)
    ways = [layers.Conv2D(8, size, padding="same", activation="relu")(x) for size in (1, 3, 5)]
    pooled = layers.MaxPooling2D(3, strides=1, padding="same")(x)
    x = layers.Concatenate()([*ways, layers.Conv2D(8, 1)(pooled)])
    x = layers.Dropout(0.2)(layers.ZeroPadding2D(1)(x))
    return layers.Dense(10)(layers.Flatten()(layers.Conv2D(16, 3, strides=4)(x)))


def _separable(x: keras.KerasTensor) -> keras.KerasTensor:
    x = layers.SeparableConv2D(16, 3, dilation_rate=2, activation="gelu")(x)
    x = layers.GroupNormalization(4)(layers.Conv2D(16, 3, groups=4)(x))
    x = layers.PReLU(shared_axes=[1, 2])(x)
    x = layers.Conv2D(16, 3, padding="same")(x)
    return _head(layers.Activation("mish")(layers.LayerNormalization()(x)))


def _gelu(x: keras.KerasTensor) -> keras.KerasTensor:
    # The exact one is written with an operator that ONNX does not have; `_separable` keeps it.
    return keras.activations.gelu(x, approximate=True)


def _transformer(x: keras.KerasTensor) -> keras.KerasTensor:
    places = keras.ops.cumsum(keras.ops.ones_like(x), axis=1) - 1
    h = layers.Embedding(WORDS, 32)(x) + layers.Embedding(LENGTH, 32)(places)
    for _ in range(2):
        h = layers.LayerNormalization()(h + layers.MultiHeadAttention(4, 8)(h, h))
        h = layers.LayerNormalization()(h + layers.Dense(32)(layers.Dense(64, activation=_gelu)(h)))
    return layers.Dense(5)(layers.GlobalAveragePooling1D()(h))


def _text_convolutions(x: keras.KerasTensor) -> keras.KerasTensor:
    h = layers.Embedding(WORDS, 24)(x)
    ways = [layers.GlobalMaxPooling1D()(layers.Conv1D(16, size, activation="relu")(h)) for size in (2, 3, 4)]
    return layers.Dense(5)(layers.Concatenate()(ways))


def _recommender() -> Network:
    users, items = (keras.Input((1,), dtype="int32", name=name) for name in ("users", "items"))
    ways = [layers.Flatten()(layers.Embedding(200, 16)(one)) for one in (users, items)]
    h = layers.Dense(32, activation="relu")(layers.Concatenate()(ways))
    score = layers.Dense(1)(h) + layers.Dot(1)(ways)
    rng = np.random.default_rng(0)
    found = {name: rng.integers(0, 200, (SAMPLES, 1)).astype(np.int32) for name in ("users", "items")}
    return keras.Model([users, items], layers.Activation("sigmoid")(score)), found


def _films() -> Network:
    inputs = keras.Input((8, 8, 8, 3), name="x")
    h = layers.Conv3D(8, 3, padding="same", activation="relu")(inputs)
    h = layers.MaxPooling3D(2)(layers.BatchNormalization()(h))
    h = layers.GlobalAveragePooling3D()(layers.Conv3D(16, 3, activation="elu")(h))
    films = np.random.default_rng(2).standard_normal((SAMPLES, 8, 8, 8, 3)).astype(np.float32)
    return keras.Model(inputs, layers.Dense(7)(h)), {"x": films}


def _moving() -> Network:
    inputs = keras.Input((4, 8, 8, 2), name="x")
    h = layers.ConvLSTM2D(6, 3, padding="same")(inputs)
    films = np.random.default_rng(2).standard_normal((SAMPLES, 4, 8, 8, 2)).astype(np.float32)
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(h))), {"x": films}


def _autoencoder() -> Network:
    inputs = keras.Input((32,), name="x")
    h = layers.Dense(16, activation="selu")(layers.BatchNormalization()(inputs))
    h = layers.Dense(32, activation="softplus")(layers.UnitNormalization()(layers.Dense(8)(h)))
    return keras.Model(inputs, h), {"x": np.random.default_rng(3).standard_normal((SAMPLES, 32)).astype(np.float32)}


def _application(make: Callable[..., keras.Model], size: int, **settings: object) -> Callable[[], Network]:
    def built() -> Network:
        inputs = keras.Input((size, size, 3), name="x")
        model = keras.Model(inputs, make(weights=None, input_tensor=inputs, classes=10, **settings).output)
        return model, images(size)

    return built


def _last(layer: Callable[[keras.KerasTensor], keras.KerasTensor]) -> Callable[[], Network]:
    return lambda: on_rows(lambda x: layers.Dense(5)(layer(x)))


def _masked(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Dense(5)(layers.LSTM(32)(layers.Embedding(WORDS, 24, mask_zero=True)(x)))


def _stacked(x: keras.KerasTensor) -> keras.KerasTensor:
    both = layers.Bidirectional(layers.GRU(16, return_sequences=True))(x)
    return layers.GRU(24)(layers.TimeDistributed(layers.Dense(16, activation="relu"))(both))


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "mobile": lambda: on_images(_mobile),
    "residual": lambda: on_images(_residual),
    "squeeze and excite": lambda: on_images(_squeeze),
    "unet": lambda: on_images(_unet),
    "inception": lambda: on_images(_inception),
    "separable": lambda: on_images(_separable),
    "transformer": lambda: on_words(_transformer),
    "text convolutions": lambda: on_words(_text_convolutions),
    "masked lstm": lambda: on_words(_masked),
    "lstm": _last(layers.LSTM(32)),
    "lstm, both ways": _last(layers.Bidirectional(layers.LSTM(16))),
    "gru": _last(layers.GRU(32)),
    "gru, reset before": _last(layers.GRU(32, reset_after=False)),
    "stacked gru": _last(_stacked),
    "simple rnn": _last(layers.SimpleRNN(32)),
    "convolutional lstm": _moving,
    "recommender": _recommender,
    "three dimensions": _films,
    "autoencoder": _autoencoder,
    "mobilenet v2": _application(keras.applications.MobileNetV2, 32, alpha=0.35),
    "mobilenet v3": _application(keras.applications.MobileNetV3Small, 32, alpha=0.75, minimalistic=False),
    "efficientnet": _application(keras.applications.EfficientNetB0, 32),
}


def by_tf2onnx(model: keras.Model, path: Path) -> None:
    """Write `model` from a function of its inputs."""
    signature = [tf.TensorSpec((None, *one.shape[1:]), one.dtype, name=one.name) for one in model.inputs]
    called = tf.function(lambda *given: model(list(given) if len(given) > 1 else given[0], training=False))
    tf2onnx.convert.from_function(called, signature, opset=OPSET, output_path=str(path))


def by_keras(model: keras.Model, path: Path) -> None:
    """Write `model` as Keras itself does."""
    model.export(str(path), format="onnx", verbose=False, opset_version=OPSET)


EXPORTERS: Mapping[str, Callable[[keras.Model, Path], None]] = {"tf2onnx": by_tf2onnx, "keras": by_keras}


def main() -> None:
    """Write what can be written, and say what cannot."""
    parser = argparse.ArgumentParser(description="Write Keras networks as ONNX.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", help="only networks whose name holds this")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, make in NETWORKS.items():
        if options.only and not any(text in name for text in options.only):
            continue
        for exporter, write in EXPORTERS.items():
            keras.backend.clear_session()
            keras.utils.set_random_seed(0)
            path = options.folder / f"{exporter}--{name.replace(' ', '_')}.onnx"
            try:
                model, inputs = make()
                # Keras exports what was called before.
                model({name: array[:1] for name, array in inputs.items()} if len(inputs) > 1 else inputs["x"][:1])
                write(model, path)
            except Exception as error:  # noqa: BLE001 - an exporter may fail in any way; then there is no graph
                print(f"{path.stem}: not exported ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
                path.unlink(missing_ok=True)
                continue
            np.savez(path.with_suffix(".npz"), **inputs)
            print(path, flush=True)


if __name__ == "__main__":
    main()
