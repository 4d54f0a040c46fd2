"""Does a translation train? Quick forms with one layer each way and few steps; `benchmarks/papers` has the full ones.

Mellempudi et al., arXiv 1905.12334, and Zhao et al., arXiv 1910.12385, on a small encoder-decoder transformer: losses
on sentences that were not trained on. `loss_factor` stands for the small errors of large batches and long sentences:
Adam's updates do not depend on it, as long as nothing underflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from fewbits import training
from translation_task import (
    END,
    LONGEST,
    PAD,
    Translated,
    Translator,
    greedy,
    held_out,
    shifted,
    train_translator,
)

FP8 = str(training.recipe("fp8_mellempudi"))
FP16 = (
    "recipe: all_fp16; weight forward: fp16; activation forward: fp16; activation output: fp16; "
    "error backward: fp16 nonsaturate; error output: fp16 nonsaturate; gradient: fp16 nonsaturate; "
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products so small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def trained(recipe: str, loss_factor: float = 1.0) -> Translated:
    return train_translator(recipe, layers=1, steps=60, loss_factor=loss_factor)


def test_a_greedy_translation_is_what_the_model_finds_likeliest_behind_its_own_words() -> None:
    torch.manual_seed(0)
    model = Translator().eval()
    (source, target), _ = held_out()
    with torch.no_grad():
        found = greedy(model, source[:8])
        scores = model(source[:8], shifted(found))
    assert found.shape == (8, LONGEST)
    assert torch.allclose(scores.gather(-1, found[..., None])[..., 0], scores.amax(-1), atol=1e-4)
    # A translation has as many words as its source, and both end once.
    assert torch.equal((source != PAD).sum(1), (target != PAD).sum(1))
    assert ((source == END).sum(1) == 1).all()
    assert ((target == END).sum(1) == 1).all()


class TestMellempudi:
    """All of W, A, E, G in E5M2, fp16 masters, a floor under the loss scale that rises by itself."""

    def test_it_trains_like_fp32(self) -> None:
        found, fp32 = trained(FP8, 2.0**-23), trained("fp32")
        assert not found.diverged
        assert found.loss < fp32.loss + 0.35
        assert found.scales[-1] >= 2.0**20

    def test_without_the_floor_it_does_not(self) -> None:
        """The scale begins at 65536 and does not rise in so few steps: most errors underflow."""
        without = trained(FP8.replace("scaler: rising_floor", "scaler: dynamic"), 2.0**-23)
        assert without.loss > trained(FP8, 2.0**-23).loss + 0.4

    def test_without_stochastic_rounding_small_errors_are_lost(self) -> None:
        unscaled = FP8.replace("scaler: rising_floor", "scaler: none")
        stochastic, nearest = trained(unscaled, 2.0**-5), trained(unscaled.replace(" stochastic", ""), 2.0**-5)
        assert stochastic.loss < nearest.loss - 0.3


class TestZhao:
    """A scale for every layer, found from its errors and weights."""

    def test_it_trains_where_no_scale_does_not(self) -> None:
        fp32, adaptive, none = (
            trained(recipe, factor)
            for recipe, factor in (
                ("fp32", 1.0),
                (f"{FP16} scaler: layer_adaptive period=10", 2.0**-13),
                (f"{FP16} scaler: none", 2.0**-13),
            )
        )
        assert adaptive.loss < fp32.loss + 0.1
        assert none.loss > adaptive.loss + 0.5
        assert len(set(adaptive.layer_scales)) > 2
