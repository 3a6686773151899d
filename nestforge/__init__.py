"""nestforge: from an image classifier's checkpoint to a measured int8 artifact for CPUs.

Each command of the command line is the function of the same name here. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestforge.compile.artifact import inspect, open_artifact
    from nestforge.compile.export import export
    from nestforge.config import BuildConfig
    from nestforge.data.preprocess import Preprocess
    from nestforge.errors import NestForgeError
    from nestforge.explain.bounded import build
    from nestforge.explain.rewrites import explain_build
    from nestforge.explain.sensitivity import sensitivity
    from nestforge.measure.benchmark import bench
    from nestforge.measure.evaluate import evaluate
    from nestforge.measure.predict import predict
    from nestforge.measure.tune import tune
    from nestforge.networks.catalog import models
    from nestforge.pages.report import report
    from nestforge.scale.loadgen import loadgen
    from nestforge.scale.run import evaluate_source, predict_source

__version__ = "0.1.0"

_HOMES = {
    "BuildConfig": "nestforge.config",
    "NestForgeError": "nestforge.errors",
    "Preprocess": "nestforge.data.preprocess",
    "bench": "nestforge.measure.benchmark",
    "build": "nestforge.explain.bounded",
    "evaluate": "nestforge.measure.evaluate",
    "evaluate_source": "nestforge.scale.run",
    "explain_build": "nestforge.explain.rewrites",
    "export": "nestforge.compile.export",
    "inspect": "nestforge.compile.artifact",
    "loadgen": "nestforge.scale.loadgen",
    "models": "nestforge.networks.catalog",
    "open_artifact": "nestforge.compile.artifact",
    "predict": "nestforge.measure.predict",
    "predict_source": "nestforge.scale.run",
    "report": "nestforge.pages.report",
    "sensitivity": "nestforge.explain.sensitivity",
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
