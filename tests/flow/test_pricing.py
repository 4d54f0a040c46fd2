"""What a job's groups cost, on the real runtimes; `tests/costs/test_measured.py` has the table itself."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import builders
from fewbits.costs.key import RegionCost
from fewbits.costs.measured import Measuring, Wanted
from fewbits.costs.table import CostTable
from fewbits.flow import pricing
from fewbits.flow.pricing import price
from fewbits.flow.site import Site
from fewbits.graph import Kind
from fewbits.space import Rule
from fewbits.store import Run
from jobs import job, opened, site


@dataclass
class Heard:
    """Progress that remembers what was said."""

    said: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def stage(self, title: str, total: int | None = None) -> None:
        self.stages.append(title)

    def advance(self, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)


def priced(tmp_path: Path, heard: Heard | None = None, **options: object) -> tuple[Site, ...]:
    one = opened(
        builders.mlp_gelu(),
        builders.features(70),
        progress=heard or Heard(),
        **options,  # type: ignore[arg-type]
    )
    return price(one.job(Run.in_memory(), tmp_path, heard or Heard()))


def test_what_turns_out_not_to_run_leaves_the_space_with_the_reason(own_costs: Path, tmp_path: Path) -> None:
    heard = Heard()
    (found,) = priced(tmp_path, heard)
    assert set(found.costs.costs) >= found.space.free
    for name in ("matmul_0", "matmul_7"):
        assert "bf16" not in map(str, found.space.schemes[name])
        said = {str(refusal.scheme): refusal.reason for refusal in found.space.refusals[name]}
        assert "does not load the model" in said["bf16"]
        assert "ran it in fp32" in said["fp16"]
    assert any(said.startswith("onnxruntime:cpu does not run everywhere: bf16, fp16") for said in heard.said)


def test_a_second_time_nothing_is_measured(own_costs: Path, tmp_path: Path) -> None:
    (first,) = priced(tmp_path)
    assert first.costs.measured > 0
    assert first.costs.known == 0
    assert own_costs.is_file()
    (again,) = priced(tmp_path)
    assert (again.costs.measured, again.costs.known) == (0, first.costs.measured)
    assert again.costs.costs == first.costs.costs
    assert again.space == first.space


def test_each_runtime_has_its_own_table_and_space(tmp_path: Path) -> None:
    ours, theirs = priced(tmp_path, target="auto")
    assert (ours.costs.target, theirs.costs.target) == (ours.name, theirs.name)
    offered = [{str(scheme) for schemes in one.space.schemes.values() for scheme in schemes} for one in (ours, theirs)]
    assert any("dynamic" in scheme for scheme in offered[0])
    assert not any("dynamic" in scheme for scheme in offered[1])


def test_within_one_run_the_table_is_a_recorded_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(opened(builders.gemm(), builders.features(70)), tmp_path)
    (first,) = price(one)
    monkeypatch.setattr(pricing, "cost_table", lambda *_: pytest.fail("measured twice"))
    assert price(one) == (first,)


def test_where_nothing_is_free_nothing_is_measured(own_costs: Path, tmp_path: Path) -> None:
    (found,) = priced(tmp_path, rules=(Rule.parse("*=fp32"),))
    assert found.costs == CostTable("onnxruntime:cpu", {})
    assert not own_costs.exists()


def test_fp32_is_never_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of the model may not run by itself; the whole was seen running before."""
    one = job(opened(builders.gemm(), builders.features(70)), tmp_path)
    free = site(one).space.free

    def table(measuring: Measuring, wanted: Wanted, cache: object) -> CostTable:
        nothing = RegionCost(0.0, 0.0, 0.0, "", "", "it does not run alone", "2026-01-01")
        fine = RegionCost(0.0, 1e-5, 0.0, "QGemm", "int8", "", "2026-01-01")
        costs = {name: {str(one): nothing if one.is_fp32 else fine for one in wanted[name]} for name in wanted}
        return CostTable(measuring.target.name, costs)

    monkeypatch.setattr(pricing, "cost_table", table)
    (found,) = price(one)
    assert found.space.free == free
    assert all(schemes[0].is_fp32 for schemes in found.space.schemes.values())


@pytest.mark.parametrize("harm", ["damaged", "locked"])
def test_a_cache_that_cannot_be_used_is_said_and_stops_nothing(own_costs: Path, tmp_path: Path, harm: str) -> None:
    own_costs.parent.mkdir(parents=True)
    heard = Heard()
    if harm == "damaged":
        own_costs.write_bytes(b"no database, but long enough to be looked at" * 100)
        (found,) = priced(tmp_path, heard)
    else:
        connection = sqlite3.connect(own_costs)
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fewbits.costs.cache.CostCache.open", _impatient)
            (found,) = priced(tmp_path, heard)
        connection.close()
    assert found.costs.measured > 0
    (remark,) = (said for said in heard.said if "stored costs" in said)
    assert {"damaged": "Begun anew", "locked": "for this run only"}[harm] in remark


def _impatient(path: Path) -> object:
    from fewbits.costs.cache import CostCache

    return CostCache(path, 0.1)


class Masked(nn.Module):
    """Attention in one call, with a mask that depends on the number of samples alone, as transformers' ViT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.register_buffer("seen", torch.ones(5, 5, dtype=torch.bool).tril())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)[:, None]
        mask = self.seen.expand(x.shape[0], 1, 5, 5)
        found: torch.Tensor = nn.functional.scaled_dot_product_attention(y, y, y, attn_mask=mask)
        return found


def test_an_attention_is_priced_with_its_mask(own_costs: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((70, 5, 16)).astype(np.float32)
    one = job(opened(Masked(), {"x": x}, target="torch:cpu", rules=(Rule.parse("*=bf16"),)), tmp_path)
    (found,) = price(one)
    (attention,) = [made.name for made in one.groups if made.kind is Kind.ATTENTION]
    assert found.costs.costs[attention]["fp32"].compute > 0 and not found.costs.costs[attention]["fp32"].refusal
