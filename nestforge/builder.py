"""The public build: an artifact from a build file, and the layers kept in float that `quantize.max_drop` asks for."""

from __future__ import annotations

from collections.abc import Iterable

from nestforge.accuracy.accuracy_control import satisfy_max_drop
from nestforge.compile.build import BuildResult, build_artifact
from nestforge.config import ConfigSource, resolve_config
from nestforge.progress import Progress, no_progress


def build(
    config: ConfigSource,
    *,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> BuildResult:
    """Build the artifact that a YAML file, a mapping of the same keys, or a `BuildConfig` describes.

    `overrides` are ``key.path=value`` strings applied to a file or a mapping. The same config, inputs and CPU give the
    same model file, byte for byte; with `quantize.max_drop`, as far as measured times rank layers the same. An
    interrupted build with `max_drop` continues where it stopped when it is run again.

    Raises:
        NestForgeError: anything wrong with config, model, data, engine or output; no artifact is left behind.
    """
    resolved = resolve_config(config, overrides)
    bounded = resolved.quantize.max_drop is not None and resolved.dtype == "int8"
    control = (lambda prepared: satisfy_max_drop(prepared, progress)) if bounded else None
    return build_artifact(resolved, overwrite=overwrite, progress=progress, control=control)
