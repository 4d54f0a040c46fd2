"""Train the demo: a depthwise-separable CNN on scikit-learn's handwritten digits, written as ONNX.

    pip install -e '.[bench]'
    python examples/train_digits.py            # about a minute on two cores; rewrites src/fewbits/demo/

One half of the 1,797 digits (stratified, fixed seed) is for training, the other half is never seen
and becomes ``digits_eval.npz``. Calibration samples come from the training half. BatchNormalization
stays a node of its own, as in most exported networks, so that folding it is part of the demo.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 0
EPOCHS = 40
BATCH = 64
CALIBRATION_SAMPLES = 256
# Few, wide layers: on an 8x8 map a narrow layer costs more in overhead than in arithmetic.
STEM, WIDE, LAST = 96, 256, 144


class ConvBn(nn.Module):
    """Convolution, batch normalisation, ReLU; keeps the map's size."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        return F.relu(self.bn(self.conv(x)))


class DigitsNet(nn.Module):
    """Two depthwise-separable blocks between a convolution and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                "stem": ConvBn(1, STEM, 3),
                "block1/dw": ConvBn(STEM, STEM, 3, groups=STEM),
                "block1/pw": ConvBn(STEM, WIDE, 1),
                "block2/dw": ConvBn(WIDE, WIDE, 3, groups=WIDE),
                "block2/pw": ConvBn(WIDE, LAST, 1),
            }
        )
        self.classifier = nn.Linear(LAST, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) in [0, 1] to scores (N, 10)."""
        for layer in self.features.values():
            x = layer(x)
        return self.classifier(x.mean((2, 3)))


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale, shear and shift each image a little."""
    n = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    angle, scale, shear = uniform(math.radians(12)), 1 + uniform(0.12), uniform(0.15)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack([cos, shear - sin, uniform(0.2)], 1), torch.stack([sin, cos, uniform(0.2)], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def train(images: Tensor, labels: Tensor, epochs: int) -> DigitsNet:
    """A network trained on `images` (N, 1, 8, 8) and `labels` (N,), in evaluation mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    net = DigitsNet()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for part in order[: len(images) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(net(augment(images[part], generator)), labels[part], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}/{epochs}  loss {loss.item():.4f}")
    return net.eval()


def to_onnx(net: DigitsNet) -> onnx.ModelProto:
    """`net` as ONNX, node by node, with readable names and a dynamic batch."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, value: Tensor) -> str:
        weights.append(numpy_helper.from_array(value.detach().numpy(), name))
        return name

    value = "image"
    for name, layer in net.features.items():
        conv, bn = layer.conv, layer.bn
        kernel = weight(f"{name}/conv/weight", conv.weight)
        shape = {"kernel_shape": conv.kernel_size, "pads": [conv.padding[0]] * 4, "group": conv.groups}
        nodes.append(helper.make_node("Conv", [value, kernel], [f"{name}/conv/out"], f"{name}/conv", **shape))
        statistics = {"scale": bn.weight, "bias": bn.bias, "mean": bn.running_mean, "var": bn.running_var}
        inputs = [f"{name}/conv/out", *(weight(f"{name}/bn/{key}", tensor) for key, tensor in statistics.items())]
        nodes.append(helper.make_node("BatchNormalization", inputs, [f"{name}/bn/out"], f"{name}/bn", epsilon=bn.eps))
        value = f"{name}/relu/out"
        nodes.append(helper.make_node("Relu", [f"{name}/bn/out"], [value], f"{name}/relu"))
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pool/out"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pool/out"], ["flatten/out"], "flatten"))
    classifier = [weight(f"classifier/{key}", tensor) for key, tensor in net.classifier.named_parameters()]
    nodes.append(helper.make_node("Gemm", ["flatten/out", *classifier], ["scores"], "classifier", transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "digits", [image], [scores], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="fewbits")
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, export, and write the three demo files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src" / "fewbits" / "demo")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]  # pixels are 0 … 16
    split = train_test_split(images, digits.target, test_size=0.5, stratify=digits.target, random_state=SEED)
    train_images, eval_images, train_labels, eval_labels = split
    net = train(torch.from_numpy(train_images), torch.from_numpy(train_labels), arguments.epochs)
    with torch.inference_mode():
        hits = (net(torch.from_numpy(eval_images)).argmax(1).numpy() == eval_labels).sum()
    print(f"held-out accuracy {hits / len(eval_labels):.4f} ({hits} of {len(eval_labels)})")

    arguments.out.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(net), arguments.out / "digits.onnx")
    np.savez_compressed(arguments.out / "digits_eval.npz", image=eval_images, labels=eval_labels)
    kept = slice(CALIBRATION_SAMPLES)
    np.savez_compressed(arguments.out / "digits_calibration.npz", image=train_images[kept], labels=train_labels[kept])
    for path in sorted(arguments.out.glob("digits*")):
        print(f"{path.name}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
