"""A small trained model and its data, inside the package: a first run needs nothing else.

`digits.onnx` is a depthwise-separable CNN with batch normalisation that reads handwritten digits,
``image`` (batch, 1, 8, 8) float32 in [0, 1] to ``scores`` (batch, 10). ``examples/train_digits.py``
makes all three files from scikit-learn's copy of the UCI handwritten digits (Alpaydin and Kaynak 1998).
"""

from pathlib import Path

# Next to this file in a checkout as in a wheel: runtimes open a path, never a zipped resource.
_HERE = Path(__file__).parent


def demo_model() -> Path:
    """The model, an ONNX file whose BatchNormalization nodes are not folded."""
    return _HERE / "digits.onnx"


def demo_data() -> Path:
    """Held-out digits: ``image`` (899, 1, 8, 8) and ``labels`` (899,); no training sample is among them."""
    return _HERE / "digits_eval.npz"


def demo_calibration() -> Path:
    """256 digits from the training half: ``image`` (256, 1, 8, 8) and ``labels`` (256,)."""
    return _HERE / "digits_calibration.npz"
