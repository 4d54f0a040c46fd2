"""Does it train? Quick forms of the papers on training in low precision; ``benchmarks/papers`` has the full ones.

Mellempudi et al., Mixed Precision Training With 8-bit Floating Point, arXiv 1905.12334; Micikevicius et al., Mixed
Precision Training, arXiv 1710.03740; Zhao et al., Adaptive Loss Scaling, arXiv 1910.12385; Drumond et al., Training
DNNs with Hybrid Block Floating Point, arXiv 1804.01526. `loss_factor` stands for the small errors of deep nets and of
large batches: it multiplies the loss and divides the rate, so that in fp32 nothing changes.
"""

from __future__ import annotations

from functools import cache

from fewbits import training
from training_tasks import Deep, Residual, Run, seeded, train

FP8 = str(training.recipe("fp8_mellempudi"))
FP8_WITHOUT_FLOOR = FP8.replace("scaler: rising_floor", "scaler: none")
FP16 = (
    "recipe: all_fp16; weight forward: fp16; activation forward: fp16; activation output: fp16; "
    "error backward: fp16 nonsaturate; error output: fp16 nonsaturate; gradient: fp16 nonsaturate; "
)
HBFP = str(training.recipe("hbfp8_16"))


@cache
def residual(recipe: str, loss_factor: float = 1.0, epochs: int = 2) -> Run:
    return train(seeded(Residual, width=8), recipe, epochs=epochs, loss_factor=loss_factor)


@cache
def deep(recipe: str, loss_factor: float, epochs: int = 4, rate: float = 0.05) -> Run:
    return train(seeded(Deep, layers=6), recipe, epochs=epochs, rate=rate, loss_factor=loss_factor)


class TestMellempudi:
    """All of W, A, E, G in E5M2, fp16 masters, a floor under the loss scale that rises by itself."""

    def test_it_trains_like_fp32(self) -> None:
        found, fp32 = residual(FP8, 2.0**-12), residual("fp32")
        assert not found.diverged
        assert found.loss < fp32.loss + 0.1
        assert found.accuracy > fp32.accuracy - 0.06

    def test_the_floor_rises_to_where_errors_do_not_underflow(self) -> None:
        # It begins at 65536, which is too little for errors that are 2^12 times smaller.
        assert residual(FP8, 2.0**-12).scale > 65536

    def test_without_a_scale_it_does_not_train(self) -> None:
        assert residual(FP8_WITHOUT_FLOOR, 2.0**-12).accuracy < 0.4

    def test_without_stochastic_rounding_small_errors_are_lost(self) -> None:
        """Where most errors lie below the smallest E5M2 number, only stochastic rounding keeps them, on average."""
        nearest = FP8_WITHOUT_FLOOR.replace(" stochastic", "")
        stochastic, lost = residual(FP8_WITHOUT_FLOOR, 2.0**-5), residual(nearest, 2.0**-5)
        assert stochastic.loss < lost.loss - 0.3
        assert stochastic.accuracy > lost.accuracy + 0.2

    def test_without_stochastic_rounding_small_updates_are_lost(self) -> None:
        """With steps of 3e-4 most updates are less than half of the distance between fp16 masters."""
        losses = {
            name: train(seeded(Residual, width=8), recipe, epochs=8, rate=3e-4).loss
            for name, recipe in {
                "fp32": "fp32",
                "fp8": FP8,
                "masters to nearest": FP8.replace("master: fp16 stochastic", "master: fp16"),
            }.items()
        }
        assert losses["fp8"] < losses["fp32"] + 0.01
        assert losses["masters to nearest"] > losses["fp8"] + 0.01


class TestMicikevicius:
    """fp16 with scaling and fp32 masters equals fp32; without either it does not."""

    def test_with_both(self) -> None:
        fp16, fp32 = deep(f"{FP16} scaler: dynamic", 2.0**-17), deep("fp32", 1.0)
        assert fp16.accuracy > fp32.accuracy - 0.02
        assert fp16.loss < fp32.loss + 0.1

    def test_without_scaling(self) -> None:
        assert deep(FP16, 2.0**-17).accuracy < 0.5

    def test_without_masters_small_updates_are_lost(self) -> None:
        found = {
            name: train(seeded(Deep, layers=3), recipe, epochs=6, rate=3e-4).loss
            for name, recipe in {
                "fp32": "fp32",
                "both": f"{FP16} scaler: dynamic",
                "nearest": f"{FP16} scaler: dynamic; master: fp16",
                "stochastic": f"{FP16} scaler: dynamic; master: fp16 stochastic",
            }.items()
        }
        assert abs(found["both"] - found["fp32"]) < 1e-3
        assert abs(found["stochastic"] - found["fp32"]) < 1e-3
        assert found["nearest"] > found["fp32"] + 5e-3


class TestZhao:
    """A scale for every layer, found from its errors and weights."""

    def test_it_trains_where_no_scale_diverges(self) -> None:
        adaptive, none = deep(f"{FP16} scaler: layer_adaptive period=5", 2.0**-17), deep(FP16, 2.0**-17)
        dynamic, fixed = (deep(f"{FP16} scaler: {one}", 2.0**-17) for one in ("dynamic", "static scale=1024"))
        assert none.accuracy < 0.5
        assert adaptive.accuracy > min(dynamic.accuracy, fixed.accuracy) - 0.02

    def test_the_scales_differ_and_grow_towards_the_input(self) -> None:
        scales = deep(f"{FP16} scaler: layer_adaptive period=5", 2.0**-17).scales
        # In the order of the backward pass, from the head on.
        assert len(set(scales)) > 2
        assert list(scales) == sorted(scales)
        assert max(scales) <= 1024


class TestDrumond:
    """Products in block floating point, the rest in fp32."""

    def test_8_bits_are_fp32(self) -> None:
        found, fp32 = residual(HBFP, epochs=2), residual("fp32", epochs=2)
        assert abs(found.loss - fp32.loss) < 0.03
        assert found.accuracy > fp32.accuracy - 0.02

    def test_4_bits_are_worse_and_one_exponent_for_the_tensor_still_more(self) -> None:
        four = HBFP.replace("bfp8", "bfp4")
        whole = four.replace("/tile24x24", "/tensor").replace("/token", "/tensor")
        losses = [
            residual(recipe, epochs=2).loss for recipe in (HBFP, four, whole.replace("bfp16/tensor", "bfp16/tile24x24"))
        ]
        assert losses[0] + 0.1 < losses[1]
        assert losses[1] + 0.05 < losses[2]
