"""The exceptions of nestforge.

NestForgeError          base: one line, says what is wrong and what to do; the CLI exits with 2
├── ConfigError         a build file or an option is wrong
├── ModelError          a checkpoint, a variant or an ONNX graph cannot be used
├── DataError           an image, a dataset or a label list cannot be used
├── EngineError         an inference engine is missing or refuses a model
└── ArtifactError       an artifact folder is missing, incomplete or changed
"""

from __future__ import annotations


class NestForgeError(Exception):
    """A problem the user can solve; its text is one line and names the remedy."""


class ConfigError(NestForgeError):
    """A build file or an option is wrong."""


class ModelError(NestForgeError):
    """A checkpoint, a variant name or an ONNX graph cannot be used."""


class DataError(NestForgeError):
    """An image, a dataset or a label list cannot be used."""


class EngineError(NestForgeError):
    """An inference engine is missing or refuses a model."""


class ArtifactError(NestForgeError):
    """An artifact folder is missing, incomplete or changed."""
