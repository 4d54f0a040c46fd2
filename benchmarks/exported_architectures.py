"""Architectures of many sorts, small and with random weights, with inputs: what exporters are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

SAMPLES = 48
LENGTH = 16

Inputs = dict[str, NDArray[np.generic]]
Make = Callable[[], tuple[nn.Module, Inputs]]


class First(nn.Module):
    """A model of transformers whose first output is all that is read; its arguments by position."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        """The first output."""
        found: Tensor = self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=False)[0]
        return found


def images(size: int, channels: int = 3) -> Inputs:
    """Smooth noise."""
    rng = np.random.default_rng(0)
    small = rng.standard_normal((SAMPLES, channels, size // 8, size // 8)).astype(np.float32)
    return {"pixel_values": small.repeat(8, axis=2).repeat(8, axis=3) + 0.1}


def tokens(words: int = 120, *, mask: bool = True) -> Inputs:
    """Words at random, some padded."""
    rng = np.random.default_rng(0)
    found: Inputs = {"input_ids": rng.integers(5, words, (SAMPLES, LENGTH))}
    if mask:
        found["attention_mask"] = (np.arange(LENGTH) < rng.integers(4, LENGTH + 1, (SAMPLES, 1))).astype(np.int64)
    return found


def pretrained(model: str, config: str, inputs: Inputs, **settings: object) -> Make:
    """A class of transformers with random weights."""

    def make() -> tuple[nn.Module, Inputs]:
        chosen = getattr(transformers, config)(**settings)
        chosen._attn_implementation = "eager"
        built = getattr(transformers, model)(chosen)
        return First(built, tuple(inputs)), inputs

    return make


def plain(module: Callable[[], nn.Module], inputs: Inputs) -> Make:
    """A module of torch."""
    return lambda: (module(), inputs)


class Recurrent(nn.Module):
    """A recurrent layer and a classifier over its last step."""

    def __init__(self, kind: type[nn.RNNBase], **settings: object) -> None:
        super().__init__()
        self.layer = kind(24, 32, batch_first=True, **settings)  # type: ignore[arg-type]
        self.head = nn.Linear(32 * (2 if settings.get("bidirectional") else 1), 5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, steps, 24) to (batch, 5)."""
        found: Tensor = self.head(self.layer(x)[0][:, -1])
        return found


def _unet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.PReLU(32),
        nn.ConvTranspose2d(32, 16, 4, 2, 1),
        nn.ELU(),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
        nn.Tanh(),
    )


def _video() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(3, 16, 3, 1, 1),
        nn.BatchNorm3d(16),
        nn.SiLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(16, 32, 3, 1, 1, groups=4),
        nn.InstanceNorm3d(32),
        nn.Mish(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(32, 7),
    )


_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_TEXT = {**_SMALL, "vocab_size": 120, "max_position_embeddings": 64}
_VIT = {**_SMALL, "image_size": 32, "patch_size": 8}
_ROWS = {"x": np.random.default_rng(1).standard_normal((SAMPLES, LENGTH, 24)).astype(np.float32)}
_FILMS = {"x": np.random.default_rng(2).standard_normal((SAMPLES, 3, 8, 8, 8)).astype(np.float32)}
_SOUND = {"input_values": np.random.default_rng(1).standard_normal((SAMPLES, 1600)).astype(np.float32)}

ARCHITECTURES: Mapping[str, Make] = {
    "bert": pretrained("BertModel", "BertConfig", tokens(), **_TEXT),
    "roberta": pretrained("RobertaModel", "RobertaConfig", tokens(), **_TEXT),
    "distilbert": pretrained(
        "DistilBertModel", "DistilBertConfig", tokens(), vocab_size=120, dim=32, n_layers=2, n_heads=4, hidden_dim=64
    ),
    "electra": pretrained("ElectraModel", "ElectraConfig", tokens(), embedding_size=16, **_TEXT),
    "albert": pretrained("AlbertModel", "AlbertConfig", tokens(), embedding_size=16, **_TEXT),
    "deberta": pretrained("DebertaV2Model", "DebertaV2Config", tokens(), **_TEXT),
    "mobilebert": pretrained(
        "MobileBertModel",
        "MobileBertConfig",
        tokens(),
        embedding_size=16,
        intra_bottleneck_size=16,
        true_hidden_size=16,
        **_TEXT,
    ),
    "mpnet": pretrained("MPNetModel", "MPNetConfig", tokens(), **_TEXT),
    "gpt2": pretrained(
        "GPT2Model",
        "GPT2Config",
        tokens(),
        vocab_size=120,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        use_cache=False,
    ),
    "opt": pretrained("OPTModel", "OPTConfig", tokens(), ffn_dim=64, word_embed_proj_dim=32, use_cache=False, **_TEXT),
    "llama": pretrained("LlamaModel", "LlamaConfig", tokens(), use_cache=False, **_TEXT),
    "t5 encoder": pretrained(
        "T5EncoderModel", "T5Config", tokens(), vocab_size=120, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    ),
    "vit": pretrained("ViTModel", "ViTConfig", images(32), **_VIT),
    "deit": pretrained("DeiTModel", "DeiTConfig", images(32), **_VIT),
    "swin": pretrained(
        "SwinModel",
        "SwinConfig",
        images(32),
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=4,
    ),
    "convnext": pretrained(
        "ConvNextModel",
        "ConvNextConfig",
        images(64),
        hidden_sizes=[8, 16, 32, 64],
        depths=[1, 1, 1, 1],
    ),
    "resnet": pretrained(
        "ResNetModel", "ResNetConfig", images(64), embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]
    ),
    "regnet": pretrained(
        "RegNetModel",
        "RegNetConfig",
        images(64),
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        groups_width=8,
    ),
    "mobilenet v1": pretrained("MobileNetV1Model", "MobileNetV1Config", images(64), depth_multiplier=0.25),
    "mobilenet v2": pretrained("MobileNetV2Model", "MobileNetV2Config", images(64), depth_multiplier=0.35),
    "efficientnet": pretrained(
        "EfficientNetModel",
        "EfficientNetConfig",
        images(64),
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
    ),
    "mobilevit": pretrained(
        "MobileViTModel",
        "MobileViTConfig",
        images(64),
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32],
    ),
    "segformer": pretrained(
        "SegformerModel",
        "SegformerConfig",
        images(64),
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16,
    ),
    "poolformer": pretrained(
        "PoolFormerModel", "PoolFormerConfig", images(64), hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]
    ),
    "wav2vec2": pretrained(
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        _SOUND,
        conv_dim=[16, 16],
        conv_kernel=[10, 3],
        conv_stride=[5, 2],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        vocab_size=30,
        **_SMALL,
    ),
    "lstm": plain(lambda: Recurrent(nn.LSTM, num_layers=2), _ROWS),
    "lstm, both ways": plain(lambda: Recurrent(nn.LSTM, bidirectional=True), _ROWS),
    "gru": plain(lambda: Recurrent(nn.GRU), _ROWS),
    "rnn": plain(lambda: Recurrent(nn.RNN), _ROWS),
    "transformer of torch": plain(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), 2), _ROWS
    ),
    "transposed convolutions": plain(_unet, images(32)),
    "three dimensions": plain(_video, _FILMS),
}
