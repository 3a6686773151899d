"""The engines that execute ONNX files. An engine is imported only when it is used."""

from __future__ import annotations

import importlib
import sys

from nestforge.checks import suggest_nearest
from nestforge.engines.base import Engine
from nestforge.errors import EngineError

# `import openvino` would report itself over the network. Without this package it uses its own stub, which does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

ENGINES = {
    "openvino": "nestforge.engines.openvino:OpenVINOEngine",
    "onnxruntime": "nestforge.engines.onnxruntime:ONNXRuntimeEngine",
}


def get_engine(name: str) -> Engine:
    """Return the engine called `name`.

    Raises:
        EngineError: the name is unknown, or the engine's package is not installed.
    """
    if name not in ENGINES:
        raise EngineError(f"unknown engine {name!r}{suggest_nearest(name, ENGINES)} (there are: {', '.join(ENGINES)})")
    module_name, class_name = ENGINES[name].split(":")
    try:
        engine: Engine = getattr(importlib.import_module(module_name), class_name)()
    except ImportError as error:
        raise EngineError(f"engine {name} is not installed ({error}); run 'pip install {name}'") from error
    return engine
