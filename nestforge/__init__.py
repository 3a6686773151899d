"""nestforge: from an image classifier's checkpoint to a measured int8 artifact for CPUs.

Each command of the command line is the function of the same name here. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestforge.accuracy.sensitivity import LayerSensitivity, Sensitivity, sensitivity
    from nestforge.artifact.artifact import Artifact, inspect, open_artifact
    from nestforge.artifact.manifest import Explanation, Manifest
    from nestforge.builder import build
    from nestforge.compile.build import BuildResult
    from nestforge.compile.explain import explain_build
    from nestforge.compile.export import ExportResult, export
    from nestforge.config import BuildConfig
    from nestforge.data.loader import UnreadableImage
    from nestforge.data.preprocess import Preprocess
    from nestforge.engines.base import Parallelism
    from nestforge.errors import ArtifactError, ConfigError, DataError, EngineError, ModelError, NestForgeError
    from nestforge.inference.classifier import Classifier, Prediction, TopClass, load
    from nestforge.measure.benchmark import BenchmarkComparison, BenchmarkResult, bench
    from nestforge.measure.evaluate import Evaluation, evaluate
    from nestforge.measure.loadgen import LoadGenResult, loadgen
    from nestforge.measure.paired import ChangedPrediction, PairedEvaluation
    from nestforge.measure.statistics import Rate
    from nestforge.measure.tune import Tuning, tune
    from nestforge.networks.catalog import ModelRow, models
    from nestforge.pages.report import Report, report
    from nestforge.scale.predict import Predictions, predict

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "nestforge.artifact.artifact",
    "ArtifactError": "nestforge.errors",
    "BenchmarkComparison": "nestforge.measure.benchmark",
    "BenchmarkResult": "nestforge.measure.benchmark",
    "BuildConfig": "nestforge.config",
    "BuildResult": "nestforge.compile.build",
    "ChangedPrediction": "nestforge.measure.paired",
    "Classifier": "nestforge.inference.classifier",
    "ConfigError": "nestforge.errors",
    "DataError": "nestforge.errors",
    "EngineError": "nestforge.errors",
    "Evaluation": "nestforge.measure.evaluate",
    "Explanation": "nestforge.artifact.manifest",
    "ExportResult": "nestforge.compile.export",
    "LayerSensitivity": "nestforge.accuracy.sensitivity",
    "LoadGenResult": "nestforge.measure.loadgen",
    "Manifest": "nestforge.artifact.manifest",
    "ModelError": "nestforge.errors",
    "ModelRow": "nestforge.networks.catalog",
    "NestForgeError": "nestforge.errors",
    "PairedEvaluation": "nestforge.measure.paired",
    "Parallelism": "nestforge.engines.base",
    "Prediction": "nestforge.inference.classifier",
    "Predictions": "nestforge.scale.predict",
    "Preprocess": "nestforge.data.preprocess",
    "Rate": "nestforge.measure.statistics",
    "Report": "nestforge.pages.report",
    "Sensitivity": "nestforge.accuracy.sensitivity",
    "TopClass": "nestforge.inference.classifier",
    "Tuning": "nestforge.measure.tune",
    "UnreadableImage": "nestforge.data.loader",
    "bench": "nestforge.measure.benchmark",
    "build": "nestforge.builder",
    "evaluate": "nestforge.measure.evaluate",
    "explain_build": "nestforge.compile.explain",
    "export": "nestforge.compile.export",
    "inspect": "nestforge.artifact.artifact",
    "load": "nestforge.inference.classifier",
    "loadgen": "nestforge.measure.loadgen",
    "models": "nestforge.networks.catalog",
    "open_artifact": "nestforge.artifact.artifact",
    "predict": "nestforge.scale.predict",
    "report": "nestforge.pages.report",
    "sensitivity": "nestforge.accuracy.sensitivity",
    "tune": "nestforge.measure.tune",
}

__all__ = [
    "Artifact",
    "ArtifactError",
    "BenchmarkComparison",
    "BenchmarkResult",
    "BuildConfig",
    "BuildResult",
    "ChangedPrediction",
    "Classifier",
    "ConfigError",
    "DataError",
    "EngineError",
    "Evaluation",
    "Explanation",
    "ExportResult",
    "LayerSensitivity",
    "LoadGenResult",
    "Manifest",
    "ModelError",
    "ModelRow",
    "NestForgeError",
    "PairedEvaluation",
    "Parallelism",
    "Prediction",
    "Predictions",
    "Preprocess",
    "Rate",
    "Report",
    "Sensitivity",
    "TopClass",
    "Tuning",
    "UnreadableImage",
    "bench",
    "build",
    "evaluate",
    "explain_build",
    "export",
    "inspect",
    "load",
    "loadgen",
    "models",
    "open_artifact",
    "predict",
    "report",
    "sensitivity",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module 'nestforge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
