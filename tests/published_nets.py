"""The products of published networks as cost models see them, for one image."""

from __future__ import annotations

from collections.abc import Iterator

from fewbits.costs.model import LayerSpec


def convolution(name: str, cin: int, cout: int, kernel: int, side: int, stride: int = 1, groups: int = 1) -> LayerSpec:
    """A square convolution over a map of `side` x `side`, padded so that only the stride makes it smaller."""
    out = -(-side // stride)
    weights = cout * (cin // groups) * kernel * kernel
    return LayerSpec(
        name,
        "conv",
        macs=weights * out * out,
        weights=weights,
        in_elems=cin * side * side,
        out_elems=cout * out * out,
        cin=cin,
        cout=cout,
        kh=kernel,
        kw=kernel,
        stride=stride,
        groups=groups,
        out_h=out,
        out_w=out,
    )


def mobilenet_v1() -> tuple[LayerSpec, ...]:
    """MobileNet 1.0, 224 (Howard et al., arXiv 1704.04861, table 1)."""
    return tuple(_v1())


def mobilenet_v2() -> tuple[LayerSpec, ...]:
    """MobileNetV2 1.0, 224 (Sandler et al., arXiv 1801.04381, table 2)."""
    return tuple(_v2())


def _v1() -> Iterator[LayerSpec]:
    side, cin = 112, 32
    yield convolution("conv", 3, 32, 3, 224, 2)
    outputs = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for number, (cout, stride) in enumerate(outputs):
        yield convolution(f"dw{number}", cin, cin, 3, side, stride, groups=cin)
        side //= stride
        yield convolution(f"pw{number}", cin, cout, 1, side)
        cin = cout
    yield convolution("fc", 1024, 1000, 1, 1)


def _v2() -> Iterator[LayerSpec]:
    side, cin = 112, 32
    yield convolution("conv", 3, 32, 3, 224, 2)
    blocks = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for stage, (expansion, cout, repeats, first) in enumerate(blocks):
        for number in range(repeats):
            name, stride, wide = f"{stage}.{number}", first if number == 0 else 1, cin * expansion
            if expansion > 1:
                yield convolution(f"{name} expand", cin, wide, 1, side)
            yield convolution(f"{name} depthwise", wide, wide, 3, side, stride, groups=wide)
            side //= stride
            yield convolution(f"{name} project", wide, cout, 1, side)
            cin = cout
    yield convolution("last", cin, 1280, 1, side)
    yield convolution("fc", 1280, 1000, 1, 1)
