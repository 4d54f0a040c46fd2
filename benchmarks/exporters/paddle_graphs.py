"""Small Paddle networks with random weights, as ONNX files: ``python paddle_graphs.py FOLDER [--only NAME]``.

Runs in an environment of its own, without fewbits: ``pip install paddlepaddle paddle2onnx onnxruntime
onnx_graphsurgeon sympy``. Each network is written by paddle2onnx, as it is and with constants folded, as
``EXPORTER--NAME.onnx`` with inputs beside it (``.npz``); `exported_graphs.py --given FOLDER` reads both. Batch norms
stay nodes of their own, hard swishes are chains, scales are Mul and Add.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec
from paddle.vision import models

SAMPLES = 48
WORDS, LENGTH = 120, 16

Inputs = dict[str, np.ndarray]
Network = tuple[nn.Layer, Inputs]


def images(size: int, channels: int = 3) -> Inputs:
    """Smooth noise."""
    small = np.random.default_rng(0).standard_normal((SAMPLES, channels, size // 8, size // 8)).astype(np.float32)
    return {"x": small.repeat(8, axis=2).repeat(8, axis=3) + np.float32(0.1)}


def words() -> Inputs:
    """Words at random."""
    return {"x": np.random.default_rng(0).integers(0, WORDS, (SAMPLES, LENGTH))}


def rows() -> Inputs:
    """Sequences of 24 numbers."""
    return {"x": np.random.default_rng(1).standard_normal((SAMPLES, LENGTH, 24)).astype(np.float32)}


def _block(read: int, given: int, activation: Callable[[], nn.Layer], **more: object) -> nn.Layer:
    conv = nn.Conv2D(read, given, 3, padding=1, bias_attr=False, **more)
    return nn.Sequential(conv, nn.BatchNorm2D(given), activation())


class Scaled(nn.Layer):
    """A convolution between scales and shifts of its own, as pre- and post-processing leaves them in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _block(3, 16, nn.Hardswish, stride=2)
        self.depthwise = _block(16, 16, nn.Hardswish, groups=16)
        self.last = nn.Conv2D(16, 24, 1)
        self.factor = self.create_parameter([1, 24, 1, 1], default_initializer=nn.initializer.Uniform(0.5, 1.5))
        self.shift = self.create_parameter([1, 24, 1, 1], default_initializer=nn.initializer.Uniform(-1.0, 1.0))
        self.head = nn.Linear(24, 10)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images to classes."""
        x = self.first(paddle.scale(x, scale=0.5, bias=-0.1))
        x = self.last(self.depthwise(x)) * self.factor + self.shift
        x = nn.functional.adaptive_avg_pool2d(nn.functional.hardswish(x), 1)
        return self.head(x.flatten(1))


class Squeeze(nn.Layer):
    """Squeeze and excitation with a hard sigmoid, as in PP-LCNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 16, nn.Hardswish, stride=2)
        self.down, self.up = nn.Conv2D(16, 4, 1), nn.Conv2D(4, 16, 1)
        self.last = _block(16, 32, nn.ReLU6)
        self.head = nn.Linear(32, 10)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images to classes."""
        x = self.stem(x)
        gate = nn.functional.relu(self.down(nn.functional.adaptive_avg_pool2d(x, 1)))
        x = self.last(x * nn.functional.hardsigmoid(self.up(gate)))
        return self.head(x.mean(axis=[2, 3]))


class Residual(nn.Layer):
    """Two branches that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 16, nn.ReLU)
        self.long = nn.Sequential(
            _block(16, 32, nn.ReLU, stride=2), nn.Conv2D(32, 32, 3, padding=1), nn.BatchNorm2D(32)
        )
        self.short = nn.Sequential(nn.Conv2D(16, 32, 1, stride=2, bias_attr=False), nn.BatchNorm2D(32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images to classes."""
        x = self.stem(x)
        x = nn.functional.relu(self.long(x) + self.short(x))
        return nn.functional.softmax(self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)))


class Segments(nn.Layer):
    """Down, up by a transposed convolution and by interpolation, and a concat."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _block(3, 8, nn.LeakyReLU), _block(8, 16, nn.Swish, stride=2)
        self.third = _block(16, 16, nn.Mish, stride=2)
        self.up = nn.Conv2DTranspose(16, 16, 2, stride=2)
        self.last = nn.Conv2D(40, 2, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images to maps."""
        first = self.first(x)
        second = self.second(first)
        up = paddle.concat([self.up(self.third(second)), second], axis=1)
        up = nn.functional.interpolate(up, size=[32, 32], mode="bilinear")
        return nn.functional.sigmoid(self.last(paddle.concat([up, first], axis=1)))


class Recurrent(nn.Layer):
    """A recurrent layer and a classifier over its last step."""

    def __init__(self, layer: nn.Layer, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(batch, steps, 24) to (batch, 5)."""
        return self.head(self.layer(x)[0][:, -1])


class Reader(nn.Layer):
    """Convolutions whose columns a recurrent layer reads, as in text recognition."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(1, 16, nn.Hardswish, stride=2), _block(16, 24, nn.ReLU, stride=(2, 1)))
        self.layer = nn.LSTM(24, 16, direction="bidirect")
        self.head = nn.Linear(32, 12)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Lines to letters."""
        x = self.body(x).mean(axis=2)
        return nn.functional.softmax(self.head(self.layer(x.transpose([0, 2, 1]))[0]), axis=2)


class Encoder(nn.Layer):
    """Embeddings and Paddle's transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(WORDS, 32), nn.Embedding(LENGTH, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu")
        self.body, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Words to classes."""
        return self.head(self.body(self.table(x) + self.places(paddle.arange(LENGTH))).mean(axis=1))


class Text(nn.Layer):
    """Embeddings with a padding index, and one-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 24, padding_idx=0)
        self.conv, self.norm, self.head = nn.Conv1D(24, 16, 3), nn.BatchNorm1D(16), nn.Linear(16, 5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Words to classes."""
        found = self.norm(self.conv(self.table(x).transpose([0, 2, 1])))
        return self.head(nn.functional.relu(found).max(axis=2))


def _rnn(layer: nn.Layer, width: int) -> Network:
    return Recurrent(layer, width), rows()


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "scales": lambda: (Scaled(), images(32)),
    "squeeze and excite": lambda: (Squeeze(), images(32)),
    "residual": lambda: (Residual(), images(32)),
    "segments": lambda: (Segments(), images(32)),
    "reader": lambda: (Reader(), images(32, 1)),
    "transformer": lambda: (Encoder(), words()),
    "text convolutions": lambda: (Text(), words()),
    "lstm": lambda: _rnn(nn.LSTM(24, 32), 32),
    "lstm, both ways": lambda: _rnn(nn.LSTM(24, 16, direction="bidirect"), 32),
    "gru": lambda: _rnn(nn.GRU(24, 32, num_layers=2), 32),
    "simple rnn": lambda: _rnn(nn.SimpleRNN(24, 32), 32),
    "mobilenet v1": lambda: (models.mobilenet_v1(scale=0.25, num_classes=10), images(32)),
    "mobilenet v2": lambda: (models.mobilenet_v2(scale=0.25, num_classes=10), images(32)),
    "mobilenet v3": lambda: (models.mobilenet_v3_small(scale=0.5, num_classes=10), images(32)),
    "shufflenet v2": lambda: (models.shufflenet_v2_x0_25(num_classes=10), images(32)),
    "shufflenet v2, swish": lambda: (models.shufflenet_v2_swish(num_classes=10), images(32)),
    "squeezenet": lambda: (models.squeezenet1_1(num_classes=10), images(64)),
}


EXPORTERS = {"paddle2onnx": "None", "paddle2onnx, folded": "polygraphy"}
"""What the exporter does at the end, by the name that is told."""


def write(name: str, exporter: str, path: Path) -> None:
    """Write the network `name` with any number of samples."""
    paddle.seed(0)
    layer, inputs = NETWORKS[name]()
    layer.eval()
    given = [InputSpec([None, *array.shape[1:]], str(array.dtype), one) for one, array in inputs.items()]
    tool = EXPORTERS[exporter]
    paddle.onnx.export(layer, str(path.with_suffix("")), input_spec=given, opset_version=16, optimize_tool=tool)
    np.savez(path.with_suffix(".npz"), **inputs)


def main() -> None:
    """Write what can be written, and say what cannot."""
    parser = argparse.ArgumentParser(description="Write Paddle networks as ONNX.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", help="only networks whose name holds this")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.write:
        name, exporter = options.write
        write(name, exporter, _path(options.folder, exporter, name))
        return
    for name in NETWORKS:
        if options.only and not any(text in name for text in options.only):
            continue
        for exporter in EXPORTERS:
            path = _path(options.folder, exporter, name)
            # The exporter ends the process where it fails.
            command = [sys.executable, __file__, str(options.folder), "--write", name, exporter]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            said = [line for line in done.stderr.splitlines() if "rror" in line] or [f"ended with {done.returncode}"]
            print(path if path.is_file() else f"{path.stem}: not exported ({said[-1].strip()[:200]})", flush=True)


def _path(folder: Path, exporter: str, name: str) -> Path:
    return folder / f"{exporter}--{name}.onnx".replace(" ", "_")


if __name__ == "__main__":
    main()
