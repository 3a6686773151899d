"""What users would otherwise quantize with: one function a peer, from a float32 ONNX file to a model OpenVINO runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import onnx

from nestforge.engines.base import Images


class Samples(Protocol):
    """Calibration images, iterated any number of times; each (1, 3, H, W) float32, normalised."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Images]: ...


Quantizer = Callable[[Path, Samples, Path], Path]


def quantize_with_nncf(source: Path, samples: Samples, target: Path) -> Path:
    """NNCF's ONNX backend with its defaults."""
    import nncf

    dataset = nncf.Dataset(samples, lambda sample: {"input": sample})
    onnx.save(nncf.quantize(onnx.load(source), dataset, subset_size=len(samples)), target)
    return target


def quantize_with_nncf_openvino(source: Path, samples: Samples, target: Path) -> Path:
    """NNCF on the OpenVINO model, as its documentation shows it."""
    import nncf
    import openvino

    model = openvino.Core().read_model(str(source))
    target = target.with_suffix(".xml")
    openvino.save_model(nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples)), str(target))
    return target


def quantize_with_onnxruntime(
    source: Path, samples: Samples, target: Path, *, method: str = "MinMax", reduce_range: bool = False
) -> Path:
    """ONNX Runtime's static quantizer: QDQ, per-channel weights, u8 activations; 7-bit weights with `reduce_range`."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = ({"input": sample} for sample in samples)

        def get_next(self) -> dict[str, Images] | None:
            return next(self.rows, None)

    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        reduce_range=reduce_range,
    )
    return target
