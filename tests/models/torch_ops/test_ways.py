"""What every way to compute one call promises: the values of its scheme, for any shape, saved and compiled."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable

import pytest
import torch

from fewbits.formats.scheme import Scheme
from fewbits.models.torch_ops.operation import Call
from fewbits.models.torch_ops.writing import choose
from torch_calls import (
    CONVOLUTIONS,
    DYNAMIC,
    EXACT,
    LINEAR_WAYS,
    ROUNDING,
    STATIC,
    SYMMETRIC,
    Layer,
    away,
    convolution,
    embedding,
    linear,
    matmul,
)

CONV_WAYS = (STATIC, SYMMETRIC, DYNAMIC, f"{SYMMETRIC} dynamic", "bf16", "fp16")
TABLE_WAYS = ("w:int8r/channel", "w:int4r/channel", "w:int8r/tensor", "bf16", "fp16")

LAYERS: dict[str, Callable[[], Layer]] = {
    **{f"linear {name}": lambda scheme=scheme: linear(scheme) for name, scheme in LINEAR_WAYS.items()},
    **{f"convolution {scheme}": lambda scheme=scheme: convolution(scheme) for scheme in CONV_WAYS},
    **{f"embedding {scheme}": lambda scheme=scheme: embedding(scheme) for scheme in TABLE_WAYS},
    **{f"matmul {scheme}": lambda scheme=scheme: matmul(scheme) for scheme in ("bf16", "fp16")},
}
COMPILED = (
    "linear int8 dynamic",
    "linear int8 per token, shifted",
    "linear fp8 row-wise",
    f"convolution {STATIC}",
)
"""Those around whose kernels there is something that a compiler fuses: it takes seconds for each."""
every_way = pytest.mark.parametrize("name", LAYERS)


def allowed(call: Call) -> float:
    return ROUNDING.get(str(call.scheme), EXACT)


@every_way
def test_it_gives_the_values_of_its_scheme(name: str) -> None:
    layer = LAYERS[name]()
    found, wanted = layer.written()(*layer.inputs), layer.written(emulate=True)(*layer.inputs)
    assert found.dtype == torch.float32
    assert away(found, wanted) <= allowed(layer.call)


@pytest.mark.parametrize("shape", [(), (1,), (33,), (2, 3), (2, 3, 4), (0,), (2, 0, 3)])
@pytest.mark.parametrize("scheme", LINEAR_WAYS.values())
def test_a_product_takes_any_number_of_axes(scheme: str, shape: tuple[int, ...]) -> None:
    layer = linear(scheme, shape=shape)
    found, wanted = layer.written()(*layer.inputs), layer.written(emulate=True)(*layer.inputs)
    assert found.shape == (*shape, 45)
    assert away(found, wanted) <= allowed(layer.call)


@pytest.mark.parametrize("depth", [1, 16, 33, 130])
@pytest.mark.parametrize("columns", [1, 8, 17])
@pytest.mark.parametrize("scheme", LINEAR_WAYS.values())
def test_a_product_takes_any_size(scheme: str, depth: int, columns: int) -> None:
    layer = linear(scheme, depth, columns, bias=False)
    assert away(layer.written()(*layer.inputs), layer.written(emulate=True)(*layer.inputs)) <= allowed(layer.call)


@pytest.mark.parametrize("scheme", LINEAR_WAYS.values())
def test_memory_of_the_input_need_not_be_contiguous(scheme: str) -> None:
    layer = linear(scheme, 20, 16, (20,))
    x = layer.inputs[0]
    assert torch.equal(layer.written()(x.t()), layer.written()(x.t().contiguous()))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("scheme", CONV_WAYS)
def test_a_convolution_takes_any_attributes(scheme: str, name: str) -> None:
    layer = convolution(scheme, name)
    assert layer.weight is not None
    found, wanted = layer.written()(*layer.inputs), layer.written(emulate=True)(*layer.inputs)
    assert layer.call.convolution is not None
    assert tuple(found.shape) == layer.call.convolution.output(tuple(layer.inputs[0].shape), tuple(layer.weight.shape))
    assert away(found, wanted) <= allowed(layer.call)


@pytest.mark.parametrize("scheme", CONV_WAYS)
def test_a_convolution_takes_one_image_alone(scheme: str) -> None:
    layer = convolution(scheme)
    x, module = layer.inputs[0][:1], layer.written()
    assert torch.equal(module(x[0]), module(x)[0])


@every_way
def test_its_state_is_plain_and_makes_it_again(name: str) -> None:
    layer = LAYERS[name]()
    module = layer.written()
    wanted = module(*layer.inputs)
    state = io.BytesIO()
    torch.save(module.state_dict(), state)
    state.seek(0)
    other = layer.written()
    with torch.no_grad():
        for buffer in other.buffers():
            buffer.fill_(1)
        other(*layer.inputs)  # what it packs now must not outlive the next line
    other.load_state_dict(torch.load(state, weights_only=True))
    assert torch.equal(other(*layer.inputs), wanted)


@every_way
def test_copies_and_files_of_the_module_compute_the_same(name: str) -> None:
    layer = LAYERS[name]()
    module = layer.written()
    wanted = module(*layer.inputs)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert torch.equal(other(*layer.inputs), wanted)
        assert str(other) == str(module)


@every_way
def test_it_prints_its_scheme(name: str) -> None:
    layer = LAYERS[name]()
    assert str(layer.call.scheme) in str(torch.nn.Sequential(layer.written()))


@every_way
def test_it_is_one_graph_for_a_compiler_and_an_exporter(name: str) -> None:
    layer = LAYERS[name]()
    module = layer.written()
    wanted = module(*layer.inputs)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(*layer.inputs), wanted)
        exported = torch.export.export(module, layer.inputs)
        assert torch.equal(exported.module()(*layer.inputs), wanted)


@pytest.mark.parametrize("scheme", [*LINEAR_WAYS.values(), *(f"conv {scheme}" for scheme in CONV_WAYS)])
def test_it_is_exported_with_an_open_batch(scheme: str) -> None:
    layer = convolution(scheme.removeprefix("conv ")) if scheme.startswith("conv") else linear(scheme)
    module, (x,) = layer.written(), layer.inputs
    with torch.no_grad():
        exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    more = torch.cat([x, x.flip(0), x])
    assert torch.equal(exported.module()(more), module(more))


class _All(torch.nn.Module):
    """Layers side by side: one compilation."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(layer.written() for layer in layers.values())

    def forward(self, *inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        return [part(*given) for part, given in zip(self.parts, inputs, strict=True)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, about torch's own scripts
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's CPU back end needs a C++ compiler")
def test_compiled_by_inductor_it_computes_the_same() -> None:
    layers = {name: LAYERS[name]() for name in COMPILED}
    whole = _All(layers)
    inputs = [layer.inputs for layer in layers.values()]
    with torch.no_grad():
        wanted = whole(*inputs)
        found = torch.compile(whole, fullgraph=True)(*inputs)
    for (name, layer), one, other in zip(layers.items(), found, wanted, strict=True):
        assert away(one, other) <= allowed(layer.call), name


@every_way
def test_the_users_weight_is_left_alone(name: str) -> None:
    layer = LAYERS[name]()
    before = copy.deepcopy(layer.weight)
    module = layer.written()
    module(*layer.inputs)
    with torch.no_grad():
        for buffer in module.buffers():
            buffer.fill_(1)
    assert before is None or (layer.weight is not None and torch.equal(layer.weight, before))


def test_weights_take_the_space_of_their_format() -> None:
    depth, columns = 256, 128
    for scheme, bits in {"bf16": 16, STATIC: 8, "w:int8r/channel": 8, "w:int4r/g32@0": 4, "w:uint4/g128@0": 4}.items():
        module = linear(scheme, depth, columns, bias=False).written()
        scales = 8 * columns * (depth // 32) if bits == 4 else 4 * columns + 8
        assert sum(one.nbytes for one in module.buffers()) <= depth * columns * bits // 8 + scales


def test_a_way_that_does_not_exist_is_refused_with_all_reasons() -> None:
    call = linear(STATIC).call
    reason = choose(Call(call.sort, Scheme.parse("w:mxfp4 a:mxfp8_e4m3 dynamic"), call.shape))
    assert isinstance(reason, str)
    assert "Int8Linear: the weight is not in integer codes" in reason
    assert "Fp8Linear: both operands are fp8_e4m3" in reason
