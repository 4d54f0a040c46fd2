"""The recipes that have a name, as text: what `fewbits.training.recipes` lists.

Sources: docs/training.md names the paper or the library of each.
"""

from __future__ import annotations

from collections.abc import Mapping

PRESETS: Mapping[str, str] = {
    "fp32": "",
    "tf32": """
weight forward: tf32
activation forward: tf32
error backward: tf32
reach: products
""",
    # Micikevicius et al. 2018
    "amp_fp16": """
weight forward: fp16 nonsaturate
scaler: dynamic
reach: amp
""",
    "amp_bf16": """
weight forward: bf16 nonsaturate
reach: amp
""",
    # The weights themselves are bf16; stochastic rounding lets small updates through (Zamirai et al., 2010.06192).
    "bf16_pure": """
weight forward: bf16 nonsaturate
master: bf16 stochastic
optimizer state: bf16
communication: bf16
reach: pure
""",
    "bf16_kahan": """
weight forward: bf16 nonsaturate
master: bf16 kahan
optimizer state: bf16
communication: bf16
reach: pure
""",
    # Mellempudi et al. 2019: no scale per tensor; overflow must stay visible to the loss scale.
    "fp8_mellempudi": """
weight forward: fp8_e5m2 nonsaturate
activation forward: fp8_e5m2 nonsaturate
activation output: fp8_e5m2 nonsaturate
error backward: fp8_e5m2 stochastic nonsaturate
error output: fp8_e5m2 stochastic nonsaturate
gradient: fp8_e5m2 stochastic nonsaturate
master: fp16 stochastic
scaler: rising_floor
keep: first last
""",
    # Micikevicius et al. 2022, Transformer Engine's DelayedScaling (HYBRID)
    "fp8_hybrid_delayed": """
weight forward: fp8_e4m3/tensor delayed1024
activation forward: fp8_e4m3/tensor delayed1024
error backward: fp8_e5m2/tensor delayed1024
""",
    # torchao tensorwise, Transformer Engine's Float8CurrentScaling
    "fp8_hybrid_current": """
weight forward: fp8_e4m3/tensor
activation forward: fp8_e4m3/tensor
error backward: fp8_e5m2/tensor
""",
    # torchao rowwise: E4M3 throughout
    "fp8_rowwise": """
weight forward: fp8_e4m3/token/pow2-rceil
weight backward: fp8_e4m3/token/pow2-rceil
activation forward: fp8_e4m3/token/pow2-rceil
activation backward: fp8_e4m3/token/pow2-rceil
error backward: fp8_e4m3/token/pow2-rceil
error weight: fp8_e4m3/token/pow2-rceil
""",
    # DeepSeek-V3, Transformer Engine's Float8BlockScaling
    "fp8_block128": """
weight forward: fp8_e4m3/tile128x128/pow2-rceil
activation forward: fp8_e4m3/g128/pow2-rceil
activation backward: fp8_e4m3/g128/pow2-rceil
error backward: fp8_e4m3/g128/pow2-rceil
error weight: fp8_e4m3/g128/pow2-rceil
""",
    # Drumond et al. 2018: 8 bits to compute with, 16 to keep
    "hbfp8_16": """
weight forward: bfp8/tile24x24
activation forward: bfp8/token stochastic
error backward: bfp8/token stochastic
master: bfp16/tile24x24
reach: products
""",
    "hbfp12_16": """
weight forward: bfp12/tile24x24
activation forward: bfp12/token stochastic
error backward: bfp12/token stochastic
master: bfp16/tile24x24
reach: products
""",
    # Harma et al. 2022: 4 bits, and 6 for the last epoch; first and last layer see 6 bits throughout there
    "hbfp4_6_booster": """
weight forward: bfp4/tile24x24
activation forward: bfp4/token stochastic
error backward: bfp4/token stochastic
master: bfp16/tile24x24
keep: first last
schedule: boost share=0.01 format=bfp6
""",
    # NVIDIA 2025 (arXiv 2506.08027)
    "mxfp8_rceil": """
weight forward: mxfp8_e4m3-rceil
weight backward: mxfp8_e4m3-rceil
activation forward: mxfp8_e4m3-rceil
activation backward: mxfp8_e4m3-rceil
error backward: mxfp8_e4m3-rceil
error weight: mxfp8_e4m3-rceil
""",
    # Rouhani et al. 2023 (arXiv 2310.10537)
    "mxfp6": """
weight forward: mxfp6_e3m2
weight backward: mxfp6_e3m2
activation forward: mxfp6_e3m2
activation backward: mxfp6_e3m2
error backward: mxfp6_e3m2
error weight: mxfp6_e3m2
""",
    "mxfp4_weights": """
weight forward: mxfp4
weight backward: mxfp4
activation forward: mxfp6_e3m2
activation backward: mxfp6_e3m2
error backward: mxfp6_e3m2
error weight: mxfp6_e3m2
""",
    # Transformer Engine's NVFP4BlockScaling
    "nvfp4": """
weight forward: nvfp4/tile16x16
activation forward: nvfp4
activation backward: nvfp4 hadamard16
error backward: nvfp4 stochastic
error weight: nvfp4 stochastic hadamard16
keep: first last
""",
    # DeepSpeed
    "moq": """
weight forward: int16r/channel
keep: first last
schedule: moq
""",
    # Courbariaux et al. 2015: +-1 forward and backward, real weights within -1..1
    "binary_connect": """
weight forward: binary/tensor scale=1
keep: last
clip: 1.0
""",
}
"""Name → its lines, without the name."""
