"""What a graph's own input asks of the preprocessing: whole numbers for an integer one, one scale for a grey one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from nestforge.artifact.manifest import ModelInterface
from nestforge.data.preprocess import Preprocess
from nestforge.errors import ConfigError

PIXEL_MEAN, PIXEL_STD = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # which give pixels from 0 to 255
_TOLERANCE = 1e-2  # of a whole number, in float32


def fit_preprocess(preprocess: Preprocess, interface: ModelInterface) -> Preprocess:
    """Return the preprocessing; where it gives no mean and std, with those that make whole pixels for an integer input.

    Raises:
        ConfigError: those that are given make fractions, or numbers the input's type cannot hold; or differ between
            the channels of a model that takes grey images.
    """
    given = bool({"mean", "std"} & preprocess.model_fields_set)
    if not interface.input_dtype.startswith(("float", "bfloat")):
        if not given:
            preprocess = preprocess.model_copy(update={"mean": PIXEL_MEAN, "std": PIXEL_STD})
        _check_integers(preprocess, interface.input_dtype)
    if interface.input_channels == 1 and not len(set(preprocess.mean)) == len(set(preprocess.std)) == 1:
        raise ConfigError(
            "the model takes grey images, of one channel: give preprocess.mean and preprocess.std, each one number "
            f"three times, not {list(preprocess.mean)} and {list(preprocess.std)}"
        )
    return preprocess


def _check_integers(preprocess: Preprocess, dtype: str) -> None:
    """Check that every pixel becomes an integer that `dtype` holds."""
    mean, std = (np.array(values, np.float64)[:, None] for values in (preprocess.mean, preprocess.std))
    levels = (np.arange(256) / 255 - mean) / std
    limits = np.iinfo(ir.DataType[dtype.upper()].numpy())
    whole = np.abs(levels - levels.round()).max() <= _TOLERANCE
    if not whole or levels.round().min() < limits.min or levels.round().max() > limits.max:
        raise ConfigError(
            f"the model takes {dtype} pixels, but preprocess.mean and preprocess.std give "
            f"{levels.min():.4g} to {levels.max():.4g}; leave both out for 0 to 255"
            + (", or give mean 0.50196078 (128/255) and std 0.00392157 (1/255) for -128 to 127" * (limits.min == -128))
        )
