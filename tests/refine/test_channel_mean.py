from __future__ import annotations

import numpy as np
import pytest

from fewbits.errors import DataError
from fewbits.refine.channel_mean import ChannelMean


def test_batches_add_up_and_channels_may_lie_anywhere() -> None:
    x = np.random.default_rng(0).normal(size=(10, 3, 4, 4)).astype(np.float32)
    parts = ChannelMean.empty(3).update(x[:4]).update(x[4:])
    np.testing.assert_allclose(parts.mean, x.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(ChannelMean.empty(3).update(np.moveaxis(x, 1, -1), axis=-1).mean, parts.mean)


def test_wrong_channels_and_no_values_are_refused() -> None:
    with pytest.raises(DataError, match="3 channels"):
        ChannelMean.empty(3).update(np.zeros((2, 4)))
    with pytest.raises(DataError, match="before any values"):
        _ = ChannelMean.empty(3).mean
