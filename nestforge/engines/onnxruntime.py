"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from nestforge.engines.base import Dtype, Images, Kernel, Logits, Session, Settings, run_padded
from nestforge.errors import EngineError

onnxruntime.disable_telemetry_events()


class ONNXRuntimeEngine:
    """Opens the ONNX file with the CPU execution provider; see `Engine`."""

    name = "onnxruntime"
    preferred_passes: frozenset[str] = frozenset()

    @property
    def version(self) -> str:
        return str(onnxruntime.__version__)

    def supports(self, dtype: Dtype) -> bool:
        return dtype != "bf16"

    def open(self, model: Path | bytes, settings: Settings, *, sha256: str | None = None) -> Session:
        if not self.supports(settings.dtype):
            raise EngineError("onnxruntime has no bf16 convolutions on CPUs; use engine openvino or another dtype")
        try:
            source = model if isinstance(model, bytes) else str(model)
            session = onnxruntime.InferenceSession(source, _make_options(settings), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise EngineError(f"onnxruntime cannot open the model: {str(error).splitlines()[0]}") from error
        return _ONNXRuntimeSession(session, settings, model)


def _make_options(settings: Settings) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, settings.threads // settings.streams)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised, and not also printed
    return options


class _ONNXRuntimeSession:
    """An inference session. ONNX Runtime's own `run` is thread-safe."""

    def __init__(self, session: onnxruntime.InferenceSession, settings: Settings, model: Path | bytes) -> None:
        self.settings = settings
        self._session = session
        self._model = model
        self._input = session.get_inputs()[0].name
        self._names = [output.name for output in session.get_outputs()]

    def _infer(self, images_nchw: Images) -> dict[str, npt.NDArray[np.float32]]:
        try:
            values = self._session.run(self._names, {self._input: np.ascontiguousarray(images_nchw)})
        except Exception as error:  # as in `open`
            raise EngineError(f"onnxruntime failed while running the model: {str(error).splitlines()[0]}") from error
        return dict(zip(self._names, values, strict=True))

    def run(self, images_nchw: Images) -> Logits:
        return self.run_all(images_nchw)[self._names[0]]

    def run_all(self, images_nchw: Images) -> dict[str, npt.NDArray[np.float32]]:
        return run_padded(images_nchw, self.settings, self._infer)

    def list_kernels(self) -> list[Kernel]:
        from nestforge.engines.optimized_graph import list_kernels  # needs onnx, which running a model does not

        return list_kernels(self._model, _make_options(self.settings))
