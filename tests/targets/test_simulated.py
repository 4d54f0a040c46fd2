"""Hardware that is not at hand, as a target: which schemes it offers, and that nothing about it is timed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from builders import CASES, conv_bn_relu, transformer
from conversion import run
from fewbits import open_target
from fewbits.cli.inspect import describe
from fewbits.demo import demo_data, demo_model
from fewbits.errors import TargetError, ToolError, UsageError
from fewbits.flow import bench, convert, inspect
from fewbits.flow.inspecting import elsewhere
from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import FP32, Scheme, integers
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.plan import Choice, Plan
from fewbits.targets import installed, is_simulated

FAULTY = """
class Faulty:
    unit, additive = "cycles", True
    def supports(self, op, w, a):
        raise RuntimeError("no licence")
    def cost(self, layer, w, a, o):
        return 1.0

def model(argument):
    return Faulty()
"""


def widths(scheme: Scheme) -> tuple[int, int]:
    """Bits of the weight and of the activation."""
    operands = (scheme.weight, scheme.activation)
    bits = [
        one.element.bits for one in operands if isinstance(one, ScaledFormat) and isinstance(one.element, IntFormat)
    ]
    return bits[0], bits[1]


def test_every_pair_of_8_4_and_2_bits_is_offered_for_a_weighted_product() -> None:
    space = inspect(demo_model(), "simulated:mpic").space
    for name in space.free:
        pairs = Counter(widths(scheme) for scheme in space.schemes[name] if not scheme.is_fp32)
        assert pairs == Counter((w, a) for w in (8, 4, 2) for a in (8, 4, 2))
    assert len(space.free) == 6


def test_inspect_lists_the_pairs_as_rules_take_them() -> None:
    text = " ".join(describe("digits", inspect(demo_model(), "simulated:mpic")).split())
    assert "fp32, 9 pairs of codes" in text
    for w in (8, 4, 2):
        assert f"w:int{w}r/channel a:uint4/tensor" in text


def test_products_of_two_activations_have_one_scale_for_each_operand() -> None:
    graph = open_model(transformer()).graph
    target = open_target("simulated:bops")
    attention = [one for one in group(graph) if one.is_product and not one.weight]
    assert attention
    for one in attention:
        assert integers(4, 2, channels=False) in target.menu(graph, one).schemes


def test_a_convolution_may_give_the_models_output() -> None:
    # Where codes flow, it could not: its kernels write codes alone.
    graph = open_model(conv_bn_relu()).graph
    last = group(graph)[-1]
    assert last.output in graph.outputs
    assert len(open_target("simulated:mpic").menu(graph, last).schemes) == 10


def test_joints_stay_in_fp32() -> None:
    graph = open_model(CASES["residual"].model(0)).graph
    target = open_target("simulated:size")
    joints = [one for one in group(graph) if not one.is_product]
    assert joints
    for one in joints:
        menu = target.menu(graph, one)
        assert menu.schemes == (FP32,)
        assert "products" in menu.refusals[0].reason


def test_pairs_without_a_cost_are_refused_with_the_models_name(tmp_path: Path) -> None:
    graph = open_model(conv_bn_relu()).graph
    names = [one.name for one in group(graph)]
    table = tmp_path / "costs.csv"
    table.write_text("layer,w,a,cost\n" + "".join(f"{name},{bits},{bits},1\n" for name in names for bits in (8, 2)))
    target = open_target(f"simulated:table:{table}")
    assert target.name == f"simulated:table:{table}"
    menu = target.menu(graph, group(graph)[0])
    assert [widths(scheme) for scheme in menu.schemes if not scheme.is_fp32] == [(8, 8), (2, 2)]
    assert len(menu.refusals) == 7
    assert all(f"table:{table}" in refusal.reason for refusal in menu.refusals)


def test_nothing_is_timed_and_nothing_is_to_be_deployed(tmp_path: Path) -> None:
    target = open_target("simulated:mpic", 1)
    artifact = open_model(conv_bn_relu()).original()
    inputs = CASES["conv_bn_relu"].inputs(1, 0)
    assert list(target.executed(artifact, inputs, 3)) == []
    assert target.files(artifact, tmp_path) == {}
    assert target.threads == 1
    with pytest.raises(UsageError, match="emulated"):
        bench([demo_model()], demo_data(), target="simulated:mpic")


def test_the_original_runs_as_on_the_runtime() -> None:
    artifact = open_model(conv_bn_relu()).original()
    inputs = CASES["conv_bn_relu"].inputs(2, 0)
    ours, theirs = run(artifact, inputs, open_target("simulated:size", 1)), run(artifact, inputs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_plan_for_it_is_applied_again_with_a_word_of_what_it_is() -> None:
    model = open_model(conv_bn_relu())
    first = group(model.graph)[0]
    plan = Plan(model.sha256, {first.name: Choice(str(integers(4, 4)), "")}, {"x": (-3.0, 3.0)}, "simulated:mpic")
    assert convert(conv_bn_relu(), plan).content == model.converted(plan).content
    assert "emulates" in elsewhere(plan)


def test_unknown_models_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"no cost model 'nothing'; choose .*bops.*mpic.*size"):
        open_target("simulated:nothing")
    with pytest.raises(UsageError, match="choose bops"):
        open_target("simulated")
    with pytest.raises(TargetError, match="simulated:MODEL"):
        open_target("nothing")


def test_it_is_never_chosen_by_itself() -> None:
    assert not any(is_simulated(name) for name in (*installed(), open_target().name))


def test_a_plug_in_that_raises_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "faulty.py").write_text(FAULTY)
    info = tmp_path / "faulty-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text("[fewbits.cost_models]\nnpu = faulty:model\n")
    with pytest.raises(ToolError, match=r"'npu' of faulty 2\.5 raised RuntimeError: no licence"):
        inspect(demo_model(), "simulated:npu")
