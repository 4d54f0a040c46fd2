"""One plan, two representations: a plan of a PyTorch module for its ONNX export, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fewbits.data import DataSource
from fewbits.data.raw import look
from fewbits.eligibility import module_obstacle, obstacle
from fewbits.errors import PlanError
from fewbits.flow.site import Rival
from fewbits.models import ModelSource, is_module, open_model, open_twins
from fewbits.models.protocol import Model, Twins
from fewbits.plan import Plan
from fewbits.transfer import Carried, Side, carry


def open_source(source: ModelSource, data: DataSource | None) -> Model:
    """`source`, exported on the first batches of `data` where it is a module. Raises ModelError, DataError."""
    return open_model(source, () if data is None or not is_module(source) else look(data).items)


def export_onnx(module: ModelSource | Twins, data: DataSource | None = None) -> Twins:
    """A PyTorch module beside its ONNX export, made by ``torch.onnx.export``, and which groups and tensors of the one
    are which of the other. `data` has batches such as the module is called with: the first of them is what it is
    exported on. ``.onnx.original().content`` are the bytes of the export.

    Raises:
        ModelError: the module cannot be exported.
        DataError: module and data do not go together.
    """
    return module if isinstance(module, Twins) else open_twins(open_source(module, data))


def plan_for_onnx(
    plan: Plan, module: ModelSource | Twins, data: DataSource | None = None, *, target: str = "", force: bool = False
) -> Carried:
    """`plan`, which was made for a PyTorch module, for its ONNX export (`export_onnx`), written for the runtime
    `target`. What has no counterpart there is listed in the result, and stays in fp32.

    Raises:
        PlanError: the plan was made for another model, unless `force`.
        ModelError, DataError: as `export_onnx`.
    """
    twins = export_onnx(module, data)
    _check(plan, twins.module, "module", force=force)
    return carry(plan, Side(twins.onnx.graph, twins.onnx.sha256, obstacle), twins.same, target)


def plan_for_module(
    plan: Plan, module: ModelSource | Twins, data: DataSource | None = None, *, target: str = "", force: bool = False
) -> Carried:
    """`plan`, which was made for the ONNX export of a PyTorch module (`export_onnx`), for the module, as
    `plan_for_onnx` does the other way round. Raises as that."""
    twins = export_onnx(module, data)
    _check(plan, twins.onnx, "ONNX export", force=force)
    side = Side(twins.module.graph, twins.module.sha256, module_obstacle, gives_floats=True)
    return carry(plan, side, twins.same.turned, target)


def other_plan(plan: Plan, twins: Twins, rivals: Sequence[Rival]) -> Carried:
    """`plan`, made for one of `twins`, for the other one, written for the first of the `rivals` that serve that. Raises
    PlanError if it is for neither."""
    target = next((rival.target.name for rival in rivals), "")
    if plan.model_sha256 == twins.module.sha256:
        return plan_for_onnx(plan, twins, target=target)
    return plan_for_module(plan, twins, target=target)


def _check(plan: Plan, model: Model, what: str, *, force: bool) -> None:
    if plan.model_sha256 != model.sha256 and not force:
        raise PlanError(
            f"the plan was made for another model ({plan.model_sha256[:12]}, and the {what} is {model.sha256[:12]}); "
            "give the module that it was made for, exported on the same data, or carry it over anyway with force=True"
        )


def forced(plan: Plan, model: Model) -> Plan:
    """`plan` as if it had been made for `model`. Codes are of the weights that they were found for, so it has none."""
    return replace(plan, model_sha256=model.sha256, codes={})
