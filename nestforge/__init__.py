"""nestforge: from an image classifier's checkpoint to a measured int8 artifact for CPUs.

Each command of the command line is the function of the same name here. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestforge.accuracy.sensitivity import sensitivity
    from nestforge.artifact.artifact import inspect, open_artifact
    from nestforge.builder import build
    from nestforge.compile.explain import explain_build
    from nestforge.compile.export import export
    from nestforge.config import BuildConfig
    from nestforge.data.preprocess import Preprocess
    from nestforge.errors import NestForgeError
    from nestforge.measure.benchmark import bench
    from nestforge.measure.evaluate import evaluate
    from nestforge.measure.loadgen import loadgen
    from nestforge.measure.tune import tune
    from nestforge.networks.catalog import models
    from nestforge.pages.report import report
    from nestforge.scale.predict import predict
    from nestforge.scale.run import evaluate_source, predict_source

__version__ = "0.1.0"

_HOMES = {
    "BuildConfig": "nestforge.config",
    "NestForgeError": "nestforge.errors",
    "Preprocess": "nestforge.data.preprocess",
    "bench": "nestforge.measure.benchmark",
    "build": "nestforge.builder",
    "evaluate": "nestforge.measure.evaluate",
    "evaluate_source": "nestforge.scale.run",
    "explain_build": "nestforge.compile.explain",
    "export": "nestforge.compile.export",
    "inspect": "nestforge.artifact.artifact",
    "loadgen": "nestforge.measure.loadgen",
    "models": "nestforge.networks.catalog",
    "open_artifact": "nestforge.artifact.artifact",
    "predict": "nestforge.scale.predict",
    "predict_source": "nestforge.scale.run",
    "report": "nestforge.pages.report",
    "sensitivity": "nestforge.accuracy.sensitivity",
    "tune": "nestforge.measure.tune",
}

__all__ = [
    "BuildConfig",
    "NestForgeError",
    "Preprocess",
    "bench",
    "build",
    "evaluate",
    "evaluate_source",
    "explain_build",
    "export",
    "inspect",
    "loadgen",
    "models",
    "open_artifact",
    "predict",
    "predict_source",
    "report",
    "sensitivity",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nestforge' has no attribute {name!r}")
