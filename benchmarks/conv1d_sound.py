"""Synthesised sounds in noise, half a second at 16 kHz: a one-dimensional residual convolution net on raw samples.

Twelve sorts of sound, each with random pitch, loudness, onset and noise. The sorts that are close (a sine, one with
vibrato, one that climbs or falls) are told apart less often the more noise there is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt
from torch import Tensor, nn

from training import Batch, Labelled, Trained, fit, shuffled

RATE = 16000
SAMPLES = RATE // 2
SIGNAL_TO_NOISE_DB = (-2.0, 20.0)
TRAINING, EVALUATION, CALIBRATION, HELD_OUT = 12000, 2400, 256, 96
STEPS, BATCH = 800, 64
SEED = 3
# output channels and dilation; every block halves the frames
BLOCKS = ((64, 1), (96, 2), (128, 4), (192, 8))
STEM, KERNEL, STRIDE = 32, 64, 8

Wave = NDArray[np.float64]

TIME = np.arange(SAMPLES) / RATE


def sine(pitch: float, rng: np.random.Generator) -> Wave:
    return np.sin(2 * np.pi * pitch * TIME + rng.uniform(0, 2 * np.pi))


def harmonics(pitch: float, rng: np.random.Generator, strengths: dict[int, float]) -> Wave:
    """Overtones below 7 kHz with a common start."""
    start = rng.uniform(0, 1 / pitch)
    wave = np.zeros(SAMPLES)
    for number, strength in strengths.items():
        if number * pitch < 7000:
            wave += strength * np.sin(2 * np.pi * number * pitch * (TIME + start))
    return wave


def triangle(pitch: float, rng: np.random.Generator) -> Wave:
    return harmonics(pitch, rng, {n: (-1.0) ** (n // 2) / n**2 for n in range(1, 16, 2)})


def square(pitch: float, rng: np.random.Generator) -> Wave:
    return harmonics(pitch, rng, {n: 1 / n for n in range(1, 32, 2)})


def saw(pitch: float, rng: np.random.Generator) -> Wave:
    return harmonics(pitch, rng, {n: 1 / n for n in range(1, 32)})


def organ(pitch: float, rng: np.random.Generator) -> Wave:
    return harmonics(pitch, rng, {n: rng.uniform(0.3, 1) for n in (1, 2, 3, 4, 6, 8)})


def string(pitch: float, rng: np.random.Generator) -> Wave:
    """A plucked string (Karplus and Strong 1983)."""
    period = round(RATE / pitch)
    pluck = np.zeros(SAMPLES)
    pluck[:period] = rng.uniform(-1, 1, period)
    feedback = np.zeros(period + 2)
    feedback[0] = 1
    feedback[period:] -= 0.496
    return np.asarray(lfilter([1.0], feedback, pluck))


def bell(pitch: float, rng: np.random.Generator) -> Wave:
    """Frequency modulation at an inharmonic ratio (Chowning 1973)."""
    fading = np.exp(-TIME * rng.uniform(3, 8))
    return fading * np.sin(2 * np.pi * pitch * TIME + 5 * fading * np.sin(2 * np.pi * 1.4 * pitch * TIME))


def vibrato(pitch: float, rng: np.random.Generator) -> Wave:
    rate, depth = rng.uniform(5, 9), rng.uniform(0.03, 0.08)
    return np.sin(2 * np.pi * pitch * TIME + depth * pitch / rate * np.sin(2 * np.pi * rate * TIME))


def rising(pitch: float, rng: np.random.Generator) -> Wave:
    """A tone that climbs by one octave to two and a half."""
    rate = rng.uniform(1, 2.5) * RATE / SAMPLES * np.log(2)
    return np.sin(2 * np.pi * pitch / rate * np.expm1(rate * TIME))


def falling(pitch: float, rng: np.random.Generator) -> Wave:
    return np.flip(rising(pitch, rng))


def drum(pitch: float, rng: np.random.Generator) -> Wave:
    noise = rng.standard_normal(SAMPLES) * np.exp(-TIME * rng.uniform(8, 25))
    return noise + sine(pitch / 2, rng) * np.exp(-TIME * rng.uniform(8, 25))


def wind(pitch: float, rng: np.random.Generator) -> Wave:
    """Noise in a band of a third of an octave to an octave."""
    width = 2 ** rng.uniform(1 / 6, 1 / 2)
    band = butter(2, [pitch / width, pitch * width], "bandpass", fs=RATE, output="sos")
    return np.asarray(sosfilt(band, rng.standard_normal(SAMPLES)))


SOUNDS: tuple[Callable[[float, np.random.Generator], Wave], ...] = (
    sine,
    triangle,
    square,
    saw,
    organ,
    string,
    bell,
    vibrato,
    rising,
    falling,
    drum,
    wind,
)


class Residual(nn.Module):
    """Two convolutions of three frames, the first with stride 2, and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels_in, channels_out, 3, 2, 1, bias=False),
            nn.BatchNorm1d(channels_out),
            nn.ReLU(),
            nn.Conv1d(channels_out, channels_out, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm1d(channels_out),
        )
        self.shortcut = nn.Sequential(
            nn.Conv1d(channels_in, channels_out, 1, 2, bias=False), nn.BatchNorm1d(channels_out)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames) to (batch, output channels, frames / 2)."""
        return nn.functional.relu(self.layers(x) + self.shortcut(x))


class Conv1dSound(nn.Module):
    """A wide stem, residual blocks, the mean over time, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv1d(1, STEM, KERNEL, STRIDE, KERNEL // 2, bias=False),
            nn.BatchNorm1d(STEM),
            nn.ReLU(),
        ]
        channels = STEM
        for channels_out, dilation in BLOCKS:
            layers.append(Residual(channels, channels_out, dilation))
            channels = channels_out
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, len(SOUNDS)))

    def forward(self, sound: Tensor) -> Tensor:
        """Sounds (batch, 1, 8000) to logits (batch, classes)."""
        logits: Tensor = self.layers(sound)
        return logits


def sounds(count: int, rng: np.random.Generator) -> Labelled:
    """`count` clean sounds of power 1, shape (count, 1, 8000), and their sorts."""
    labels = rng.integers(len(SOUNDS), size=count)
    waves = np.zeros((count, 1, SAMPLES), np.float32)
    for row, label in enumerate(labels):
        onset = rng.integers(SAMPLES // 4)
        wave = SOUNDS[label](100 * 2 ** rng.uniform(0, 3.3), rng)[: SAMPLES - onset]
        waves[row, 0, onset:] = wave / np.sqrt(np.mean(wave**2))
    return Labelled({"sound": waves}, labels)


def recorded(waves: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """`waves` with white noise and a loudness, each its own."""
    count = len(waves)
    noise = 10 ** (-rng.uniform(*SIGNAL_TO_NOISE_DB, (count, 1, 1)) / 20)
    loudness = 10 ** rng.uniform(-1.2, 0, (count, 1, 1))
    mixed = waves + noise.astype(np.float32) * rng.standard_normal(waves.shape, np.float32)
    return (mixed * loudness).astype(np.float32)


def build() -> Trained:
    """Train it."""
    rng = np.random.default_rng(SEED)
    clean = shuffled(sounds(TRAINING, rng), BATCH, rng)

    def batch() -> Batch:
        (waves,), labels = clean()
        return (torch.from_numpy(recorded(waves.numpy(), rng)),), labels

    module = Conv1dSound()
    fit(module, batch, steps=STEPS, rate=4e-3)
    made = sounds(EVALUATION + CALIBRATION + HELD_OUT, rng)
    rest = Labelled({"sound": recorded(np.asarray(made.inputs["sound"], np.float32), rng)}, made.labels)
    middle = EVALUATION + CALIBRATION
    return Trained(module, rest.part(0, EVALUATION), rest.part(EVALUATION, middle), rest.part(middle, len(rest)))
