"""OpenVINO on the CPU."""

from __future__ import annotations

import os
import queue
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from nestforge.engines.base import Dtype, Images, Kernel, Logits, Session, Settings, run_padded
from nestforge.engines.model_cache import name_compiled, read_compiled, write_compiled
from nestforge.errors import EngineError

_WEIGHTED_TYPES = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
_NOT_EXECUTED = frozenset({"Const", "Input", "Output"})
_INT8_PRECISIONS = frozenset({"u8", "i8"})
_RESULT_SUFFIX = "/sink_port_0"  # follows the output's name in the node for an output of the ONNX graph


class OpenVINOEngine:
    """Compiles the ONNX file for a fixed batch and image size; see `Engine`."""

    name = "openvino"
    preferred_passes = frozenset({"split_radix"})

    def __init__(self) -> None:
        self._core = openvino.Core()
        # The binding loads numpy's C API at its first use. Two threads that do so at the same time wait for each other
        # forever (one holds the interpreter's lock, the other the initializer's), so it is done once here.
        tensor = openvino.Tensor(np.zeros(1, np.float32))
        tensor.get_element_type().to_dtype()
        assert tensor.data.shape == (1,)

    @property
    def version(self) -> str:
        return str(openvino.__version__)

    def supports(self, dtype: Dtype) -> bool:
        return dtype != "bf16" or "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def open(self, model: Path | bytes, settings: Settings, *, sha256: str | None = None) -> Session:
        if not self.supports(settings.dtype):
            raise EngineError("this CPU has no bf16 instructions; build with another dtype and float_dtype")
        try:
            # The float layers of an int8 graph run in float32 unless bf16 is requested, so that predictions do not
            # depend on the CPU.
            options = {
                "INFERENCE_PRECISION_HINT": "bf16" if settings.dtype == "bf16" else "f32",
                "NUM_STREAMS": settings.streams,
                "INFERENCE_NUM_THREADS": settings.threads,
                "ENABLE_CPU_PINNING": False,
                "PERF_COUNT": settings.profile,
            }
            kept = self._name_compiled(sha256, settings, options) if sha256 and not settings.profile else None
            compiled = self._import_compiled(kept, options) if kept else None
            if compiled is None:
                network = self._core.read_model(model if isinstance(model, bytes) else str(model))
                network.reshape([settings.batch, settings.channels, settings.height, settings.width])
                compiled = self._core.compile_model(network, "CPU", options)
                if kept:
                    write_compiled(kept, compiled.export_model().getvalue())
            return _OpenVINOSession(compiled, settings)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise EngineError(f"openvino cannot open the model: {lines[-1] if lines else error}") from error

    def _name_compiled(self, sha256: str, settings: Settings, options: dict[str, Any]) -> Path | None:
        return name_compiled(
            engine=f"{self.name} {self.version}",
            model=sha256,
            settings=asdict(settings),
            options=options,
            capabilities=self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
            isa=os.environ.get("ONEDNN_MAX_CPU_ISA"),
        )

    def _import_compiled(self, kept: Path, options: dict[str, Any]) -> openvino.CompiledModel | None:
        data = read_compiled(kept)
        try:
            return self._core.import_model(data, "CPU", options) if data else None
        except RuntimeError:  # if the model itself is at fault, compiling it gives the better message
            return None


class _OpenVINOSession:
    """A compiled model with one infer request per stream."""

    def __init__(self, compiled: openvino.CompiledModel, settings: Settings) -> None:
        self.settings = settings
        self._compiled = compiled
        self._names = [_list_names(output) for output in compiled.outputs]
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(settings.streams):
            self._requests.put(compiled.create_infer_request())

    def _infer(self, images_nchw: Images) -> dict[str, npt.NDArray[np.float32]]:
        request = self._requests.get()
        try:
            results = request.infer([np.ascontiguousarray(images_nchw)], share_inputs=True)
            outputs = zip(self._names, results.to_tuple(), strict=True)
            return {name: value for names, value in outputs for name in names}
        except RuntimeError as error:
            raise EngineError(f"openvino failed while running the model: {str(error).splitlines()[0]}") from error
        finally:
            self._requests.put(request)

    def run(self, images_nchw: Images) -> Logits:
        return self.run_all(images_nchw)[self._names[0][0]]

    def run_all(self, images_nchw: Images) -> dict[str, npt.NDArray[np.float32]]:
        return run_padded(images_nchw, self.settings, self._infer)

    def list_kernels(self) -> list[Kernel]:
        kernels = []
        times_ms = self._read_times()
        for node in self._compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            name = node.get_friendly_name()
            fused = info["originalLayersNames"].astype(str).split(",")
            layer_type, precision = info["layerType"].astype(str), info["runtimePrecision"].astype(str)
            if layer_type in _NOT_EXECUTED:
                continue
            kernels.append(
                Kernel(
                    name=name,
                    layer_type=layer_type,
                    precision=precision,
                    is_weighted=layer_type in _WEIGHTED_TYPES,
                    is_int8=precision in _INT8_PRECISIONS,
                    implementation=info["primitiveType"].astype(str),
                    layers=tuple(dict.fromkeys(layer.removesuffix("/WithoutBiases") for layer in fused if layer)),
                    time_ms=times_ms.get(name),
                )
            )
        return kernels

    def _read_times(self) -> dict[str, float]:
        if not self.settings.profile:
            return {}
        request = self._requests.get()
        try:
            return {row.node_name: row.real_time.total_seconds() * 1e3 for row in request.get_profiling_info()}
        finally:
            self._requests.put(request)


def _list_names(output: openvino.ConstOutput) -> list[str]:
    """Return the name of an output in the ONNX graph, or all names of its tensor if OpenVINO does not say which.

    A tensor has several names if OpenVINO removed a node that changes nothing.
    """
    name: str = output.get_node().get_friendly_name()
    return [name.removesuffix(_RESULT_SUFFIX)] if name.endswith(_RESULT_SUFFIX) else sorted(output.get_names())
