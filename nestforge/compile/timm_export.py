"""Any classifier of timm as an ONNX file, proven like a ResNeSt, with a build file beside it that states its images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from nestforge.compile.classifier import adapt_classifier
from nestforge.compile.export import ExportResult
from nestforge.compile.onnxfile import count_graph_macs, read_onnx, serialize
from nestforge.compile.parity import ParityReport, check_parity, format_size
from nestforge.compile.timm_model import TimmModel, keep_quiet, load_timm_model, shorten_error
from nestforge.config import read_config
from nestforge.data.preprocess import BLACK, Preprocess, Resize
from nestforge.engines.torch import TorchReference
from nestforge.errors import ConfigError, ModelError, NestForgeError
from nestforge.files import atomic_write, hash_file, read_small_file
from nestforge.progress import Progress, no_progress
from nestforge.schema import MAX_YAML_BYTES

TRACED_BATCH = 2  # torch takes a batch of 1 for a constant


def export_timm(
    name: str,
    *,
    weights: Path | None,
    seed: int | None,
    size: int | None,
    output: Path | None,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export timm's model `name` to ONNX with a dynamic batch, and write a build file beside it; see `export`.

    Raises:
        ModelError: as `load_timm_model`, or torch cannot export it, or no exporter's file equals the module.
        ConfigError: the build file exists and describes something else.
    """
    begin = time.perf_counter()
    path = Path(f"{_get_stem(name)}.onnx") if output is None else output
    build_file = path.with_suffix(".yaml")
    if build_file == path:
        raise ConfigError(f"{path} is to be an ONNX file; choose another --output, such as {path.with_suffix('.onnx')}")
    with progress(f"making {name}", None):
        model = load_timm_model(name, weights=weights, seed=seed, size=size)
    text = format_build_file(name, path, model)
    is_kept = _check_build_file(build_file, text, path, model)
    with atomic_write(path) as partial, atomic_write(build_file) as partial_build_file:
        exporter, report, failures = _export_proven(name, model, partial, progress)
        graph = read_onnx(partial)
        kernel_macs = count_graph_macs(graph, *model.size_hw)
        partial_build_file.write_bytes(build_file.read_bytes() if is_kept else text.encode())
    height, width = model.size_hw
    return ExportResult(
        model=f"timm:{name}",
        path=path,
        source=model.source,
        size=height if height == width else (height, width),
        classes=model.classes,
        params=sum(parameter.numel() for parameter in model.module.parameters()),
        macs=None,
        kernel_macs=kernel_macs,
        vendor_gflops=None,
        sha256=hash_file(path),
        max_relative_difference=max(check.relative_difference for check in report.checks),
        max_torch_float32_difference=max(check.torch_float32_difference for check in report.checks),
        checks=report.checks,
        notes=(*model.notes, *_describe_preprocess(name, build_file, model), *failures, *report.notes),
        seconds=time.perf_counter() - begin,
        preprocess=model.preprocess,
        exporter=exporter,
        build_file=build_file,
    )


def format_build_file(name: str, path: Path, model: TimmModel) -> str:
    """Return a build file for the ONNX file `path`: float32, its preprocessing written out.

    For a checkpoint of other classes than timm's, the preprocessing is left to be chosen: the file shows the two most
    likely ones as comments, and cannot be built until one is taken.
    """
    head = [
        f"# Written by nestforge export timm:{name}. Paths are relative to the folder a command is run in.",
        *_dump("model", {"onnx": str(path)}),
        "dtype: fp32  # for int8: dtype: int8, and calibration: {data: FOLDER}",
    ]
    stated = _dump("preprocess", _describe(model.preprocess))
    if not model.is_published:
        whole = model.preprocess.model_copy(update={"ops": (Resize(size=model.size_hw, interpolation="bicubic"),)})
        head += [
            f"# The checkpoint has {model.classes} classes, timm's {name} {model.published_classes}: nothing says how",
            "# its images were prepared.",
            "# Uncomment what it was trained with: as timm does for the published model,",
            *(f"# {line}" for line in stated),
            "# or whole images, squashed to the input size:",
            *(f"# {line}" for line in _dump("preprocess", _describe(whole))),
        ]
    else:
        head += stated
    if model.labels is not None:
        head += _dump("labels", model.labels)
    return "\n".join([*head, *_dump("output", f"artifacts/{path.stem}")]) + "\n"


def _describe(preprocess: Preprocess) -> dict[str, Any]:
    data = preprocess.model_dump(mode="json", include={"ops", "mean", "std"})
    for op in data["ops"]:
        if op.get("fill") == list(BLACK):
            del op["fill"]
    return data


def _dump(key: str, value: str | dict[str, Any]) -> list[str]:
    """Return the lines of one section; innermost mappings stand on one line."""
    flow = None if isinstance(value, dict) else False
    text = yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=flow, width=110, allow_unicode=True)
    return text.rstrip().splitlines()


def _check_build_file(build_file: Path, text: str, path: Path, model: TimmModel) -> bool:
    """Tell whether a build file is there that still fits, and is to be kept; refuse to replace any other."""
    if not build_file.exists():
        return False
    with contextlib.suppress(NestForgeError, OSError):
        if read_small_file(build_file, limit_bytes=MAX_YAML_BYTES) == text.encode():
            return True
        config = read_config(build_file)
        if config.model.onnx == str(path) and (config.preprocess == model.preprocess or not model.is_published):
            return True
    raise ConfigError(
        f"{build_file} exists and does not describe {path} as timm prepares its images; move it away, or choose "
        "another --output"
    )


def _describe_preprocess(name: str, build_file: Path, model: TimmModel) -> tuple[str, ...]:
    if model.is_published:
        return ()
    return (
        f"the checkpoint has {model.classes} classes, timm's {name} {model.published_classes}: state in {build_file} "
        "how its images are prepared before building it",
    )


def _get_stem(name: str) -> str:
    """Return the name without a source: ``hf-hub:timm/resnet18.a1_in1k`` is ``resnet18.a1_in1k``."""
    stem = name.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    if not stem or stem.startswith("."):
        raise ModelError(f"timm has no model {name!r}; write timm:NAME, such as timm:resnet18")
    return stem


def _export_proven(
    name: str, model: TimmModel, path: Path, progress: Progress
) -> tuple[str, ParityReport, tuple[str, ...]]:
    """Write the first exporter's file that equals the module; return which, the comparison, and what failed before."""
    module = model.module
    reference = TorchReference(lambda: module.to(torch.float32, memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    failures: list[str] = []
    for exporter, write in EXPORTERS.items():
        try:
            with progress(f"exporting with {exporter}", None), keep_quiet():
                write(module.to(torch.float32), torch.zeros(TRACED_BATCH, 3, *model.size_hw), path)
        except Exception as error:  # torch's exporters raise whatever a module leads them to
            failures.append(f"{exporter} cannot export it ({shorten_error(error)})")
            continue
        try:
            _clean(path)
            report = check_parity(path, reference, sizes=[model.size_hw], progress=progress)
            return exporter, report, tuple(failures)
        except NestForgeError as error:
            failures.append(f"the file of {exporter}: {error}")
    raise ModelError(f"timm's {name} cannot be exported at {format_size(model.size_hw)}: {'; '.join(failures)}")


def _clean(path: Path) -> None:
    """Rewrite an exporter's file as one that builds take, without the source lines that it notes at every node."""
    graph = read_onnx(path)
    adapt_classifier(graph)
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    path.write_bytes(serialize(graph))


def _write_captured(module: nn.Module, images_nchw: torch.Tensor, path: Path) -> None:
    torch.onnx.export(
        module,
        (images_nchw,),
        str(path),
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: "batch"},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _write_traced(module: nn.Module, images_nchw: torch.Tensor, path: Path) -> None:
    torch.onnx.export(
        module,
        (images_nchw,),
        str(path),
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        dynamo=False,
    )


EXPORTERS: dict[str, Callable[[nn.Module, torch.Tensor, Path], None]] = {
    "torch.export": _write_captured,
    "torch.jit.trace": _write_traced,
}
