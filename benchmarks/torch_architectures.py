"""PyTorch architectures in bf16: ``python benchmarks/torch_architectures.py [--only NAME]``.

Every architecture is built small, with random weights, from its transformers configuration, exported, converted with
every group that can be in bf16 in it, and run beside the original. What came out is stored in
``benchmarks/results/torch_architectures.json``: whether it exports, its groups, the casts in the converted graph, and
the error of the outputs, beside that of ``module.bfloat16()`` and of ``torch.autocast``. Nothing may crash.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree
from transformers.utils import logging

import results
from exported_architectures import ARCHITECTURES, LENGTH, SAMPLES, First, Make, images, pretrained, tokens
from fewbits.eligibility import module_obstacle
from fewbits.errors import FewbitsError
from fewbits.formats.scheme import BF16
from fewbits.grouping import group
from fewbits.models.pytorch.casting import borders
from fewbits.models.pytorch.exporting import parameters_of
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan
from fewbits.targets.probe import this_machine
from results import ExportedModule

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_DECODER = {**_SMALL, "vocab_size": 120, "max_position_embeddings": 64, "use_cache": False}
_MEL = {"input_features": np.random.default_rng(3).standard_normal((SAMPLES, 16, 64)).astype(np.float32)}
_WORDS = {"input_ids": np.random.default_rng(4).integers(5, 120, (SAMPLES, LENGTH))}
_NEWER: Mapping[str, Make] = {
    "whisper encoder": lambda: (_whisper(), _MEL),
    "clip vision": pretrained("CLIPVisionModel", "CLIPVisionConfig", images(32), image_size=32, patch_size=8, **_SMALL),
    "clip text": pretrained(
        "CLIPTextModel", "CLIPTextConfig", _WORDS, vocab_size=120, max_position_embeddings=64, **_SMALL
    ),
    "mistral": pretrained("MistralModel", "MistralConfig", tokens(), num_key_value_heads=2, **_DECODER),
    "qwen3": pretrained("Qwen3Model", "Qwen3Config", tokens(), num_key_value_heads=2, head_dim=8, **_DECODER),
    "gemma": pretrained("GemmaModel", "GemmaConfig", tokens(), num_key_value_heads=2, head_dim=8, **_DECODER),
    "modernbert": pretrained(
        "ModernBertModel",
        "ModernBertConfig",
        tokens(),
        vocab_size=120,
        pad_token_id=0,
        cls_token_id=1,
        sep_token_id=2,
        **_SMALL,
    ),
    "dinov2": pretrained("Dinov2Model", "Dinov2Config", images(32), image_size=32, patch_size=8, **_SMALL),
}


def _whisper() -> nn.Module:
    from transformers import WhisperConfig, WhisperModel

    chosen = WhisperConfig(
        vocab_size=120,
        num_mel_bins=16,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    encoder: nn.Module = WhisperModel(chosen).get_encoder()
    return encoder


def settled(module: nn.Module, data: Mapping[str, torch.Tensor]) -> nn.Module:
    """`module` with the statistics of its batch norms as `data` gives them: values neither die out nor grow."""
    norms = [inner for inner in module.modules() if isinstance(inner, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            module.train()(**data)
    return module.eval()


def relative(expected: object, found: object) -> float:
    """‖found - expected‖ / ‖expected‖ over all float tensors that a model gives."""
    pairs = [
        (one.double(), other.double())
        for one, other in zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
        if isinstance(one, torch.Tensor) and one.is_floating_point()
    ]
    lost = sum(float((one - other).square().sum()) for one, other in pairs)
    return float((lost / sum(float(one.square().sum()) for one, _ in pairs)) ** 0.5)


def converted(name: str, module: nn.Module, example: Mapping[str, torch.Tensor]) -> ExportedModule:
    """What becomes of one architecture in bf16."""
    with torch.no_grad():
        expected = module(**example)
        low = copy.deepcopy(module).bfloat16()
        halved = {key: value.bfloat16() if value.is_floating_point() else value for key, value in example.items()}
        try:
            whole = relative(expected, low(**halved))
        except RuntimeError:
            whole = float("nan")
        with torch.autocast("cpu", torch.bfloat16):
            cast = relative(expected, module(**example))
    try:
        model = TorchModel.of(module, example)
        groups = group(model.graph)
        chosen = {
            made.name: Choice(str(BF16), "all") for made in groups if not module_obstacle(model.graph, made, BF16)
        }
        same = relative(expected, model.module(Plan(model.sha256, {}, {}))(**example))
        found = model.module(Plan(model.sha256, chosen, {}))
        error, casts = relative(expected, found(**example)), len(borders(found.graph))
    except FewbitsError as refusal:
        return ExportedModule(name, str(refusal), 0, 0, 0, 0.0, 0.0, whole, cast)
    return ExportedModule(name, "", len(groups), len(chosen), casts, same, error, whole, cast)


def main() -> None:
    """Export, convert, compare and store."""
    parser = argparse.ArgumentParser(description="Convert PyTorch architectures to bf16.")
    parser.add_argument("--only", action="append", help="only architectures whose name holds this")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name, make in {**ARCHITECTURES, **_NEWER}.items():
        if options.only and not any(text in name for text in options.only):
            continue
        torch.manual_seed(0)
        made, inputs = make()
        module = made.model if isinstance(made, First) else made
        tensors = [torch.from_numpy(array) for array in inputs.values()]
        names = list(inputs) if isinstance(made, First) or len(inputs) > 1 else parameters_of(module)
        data = dict(zip(names, tensors, strict=False))
        example = {key: value[:3] for key, value in data.items()}
        one = converted(name, settled(module, data), example)
        results.add_module(one, this_machine(results.PACKAGES))
        said = f"{one.low} of {one.groups} groups in bf16, {one.casts} casts, error {one.error:.4f}"
        print(f"{name}: {one.refusal or said} (all bf16 {one.all_bf16:.4f}, autocast {one.autocast:.4f})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
