"""Read the vendor's build YAML strictly, and turn it into a `BuildConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nestforge.config import (
    BuildConfig,
    CalibrationSection,
    ModelSection,
    QuantizeSection,
)
from nestforge.data.preprocess import CenterCrop, GeometryOp, Preprocess, Resize, make_reference_preprocess
from nestforge.errors import ConfigError
from nestforge.networks.zoo import VARIANTS, Variant
from nestforge.schema import explain_invalid, parse, read_yaml

Side = Annotated[int, Field(ge=1, le=8192)]
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$")]
Channel = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Triple = tuple[Channel, Channel, Channel]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Frontend(_Part):
    """The model: an ONNX file, or a checkpoint of the variant that `name` names."""

    shape: dict[str, tuple[int, Literal[3], Side, Side]]
    type: Literal["onnx", "pytorch"]
    checkpoint: Text
    dtype: Literal["fp32"] = "fp32"


class Compile(_Part):
    cluster_mode: int | None = None


class Quantize(_Part):
    calibrate_mode: Literal["percentile", "max", "kl_divergence", "mse"] = "percentile"
    quantize_per_channel: bool = True
    skip_conv_layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    overflow_adaptive: int | bool | None = None
    calibrate_chunk_by: int | None = None
    weight_scale: str | float | None = None


class Backend(_Part):
    type: Literal["tvm_vacc"]
    dtype: Literal["fp16", "fp32", "int8"]
    compile: Compile | None = None
    quantize: Quantize | None = None


class ExtraOps(_Part):
    type: Literal["softmax"] | None = None


class Graph(_Part):
    extra_ops: ExtraOps | None = None


class DecodeImage(_Part):
    type: Literal["DecodeImage"]


class VendorResize(_Part):
    """`size` is [height, width], to which the image is squashed, or one number, the new short side."""

    type: Literal["Resize"]
    size: Side | tuple[Side, Side]


class VendorCrop(_Part):
    type: Literal["CenterCrop"]
    crop_size: Side | tuple[Side, Side]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.crop_size, tuple) and self.crop_size[0] != self.crop_size[1]:
            raise ValueError(f"crop_size {list(self.crop_size)} is not square; only square crops are built")
        return self


class Normalize(_Part):
    """Mean and std of pixels divided by 255 or, if a mean is above 1 or a std above 2, of pixels from 0 to 255."""

    type: Literal["Normalize"]
    mean: Triple
    std: Triple

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.std) <= 1e-6:
            raise ValueError("std must be above 0")
        return self


class ToTensor(_Part):
    type: Literal["ToTensor"]


class CvtColor(_Part):
    type: Literal["CvtColor"]
    code: Literal["NO_CHANGE", "RGB2BGR", "BGR2RGB"] = "NO_CHANGE"


ProcessOp = Annotated[
    DecodeImage | VendorResize | VendorCrop | Normalize | ToTensor | CvtColor, Field(discriminator="type")
]


class Sampler(_Part):
    suffix: Text | None = None
    get_data_num: Annotated[int, Field(ge=1)] = 1000


class Dataset(_Part):
    type: Literal["tvm"] = "tvm"
    path: Text
    sampler: Sampler = Sampler()
    process_ops: tuple[ProcessOp, ...] = ()


class Workspace(_Part):
    path: Text


class VamcFile(_Part):
    """A whole build file of the vendor."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=100)]
    frontend: Frontend
    backend: Backend
    graph: Graph | None = None
    dataset: Dataset | None = None
    workspace: Workspace

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.frontend.shape) != 1:
            raise ValueError(f"frontend.shape names {len(self.frontend.shape)} inputs; an image classifier has one")
        if self.backend.dtype == "int8" and self.dataset is None:
            raise ValueError("backend.dtype int8 needs a 'dataset' section to calibrate on")
        return self

    @property
    def chw(self) -> tuple[int, int, int]:
        """Channels, height and width of the model's input."""
        _, channels, height, width = next(iter(self.frontend.shape.values()))
        return channels, height, width

    @property
    def artifact(self) -> Path:
        """The artifact's folder: WORKSPACE/MODEL-DTYPE-MODE-C_H_W-vacc/MODEL."""
        quantize = self.backend.quantize or Quantize()
        mode = quantize.calibrate_mode if self.backend.dtype == "int8" else "none"
        shape = "_".join(map(str, self.chw))
        return Path(self.workspace.path) / f"{self.name}-{self.backend.dtype}-{mode}-{shape}-vacc" / self.name


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The build that a vendor's file describes; each of `notes` is one line about something done differently."""

    config: BuildConfig
    notes: tuple[str, ...]
    assumed: Variant | None = None  # the variant whose published preprocessing is used because the file has none


def read_vamc(path: Path) -> VamcFile:
    """Read a vendor's build file.

    Raises:
        ConfigError: missing, not YAML, an unknown key (the message names the nearest known one), a wrong type or value.
    """
    return parse_vamc(read_yaml(path), source=str(path))


def parse_vamc(data: object, *, source: str) -> VamcFile:
    """Validate the content of a vendor's build file; `source` names it in errors.

    Raises:
        ConfigError: as `read_vamc`.
    """
    return parse(VamcFile, data, source=source)


def plan_build(file: VamcFile, *, engine: str = "openvino", has_bf16: bool) -> Plan:
    """Turn a vendor's file into a build for `engine`; `has_bf16` says whether this CPU executes bf16.

    Raises:
        ConfigError: the process ops do not produce the model's input, or are missing for a model that has no published
            preprocessing.
    """
    quantize = file.backend.quantize or Quantize()
    notes = [f"backend.type tvm_vacc: the artifact is built for this machine's engine, {engine}, not for VACC"]
    dtype: Literal["fp32", "bf16", "int8"] = "int8" if file.backend.dtype == "int8" else "fp32"
    if file.backend.dtype == "fp16":
        dtype = "bf16" if has_bf16 else "fp32"
        notes.append(
            f"backend.dtype fp16: built as {dtype}, the nearest that {engine} executes on this CPU"
            + ("" if has_bf16 else " (it has no bf16 instructions)")
        )
    notes += [f"{key} does nothing here: it is for the VACC accelerator" for key in _list_hardware_keys(file)]
    if dtype != "int8" and (file.backend.quantize or file.dataset):
        notes.append(f"backend.dtype {file.backend.dtype}: nothing is calibrated, so no image of 'dataset' is read")
    preprocess = _make_preprocess(file, notes)
    calibration = None
    if dtype == "int8" and file.dataset is not None:
        sampler = file.dataset.sampler
        calibration = CalibrationSection(data=file.dataset.path, count=sampler.get_data_num, suffix=sampler.suffix)
    is_onnx = file.frontend.type == "onnx"
    config = BuildConfig(
        model=ModelSection(onnx=file.frontend.checkpoint)
        if is_onnx
        else ModelSection(name=file.name, weights=file.frontend.checkpoint),
        dtype=dtype,
        engine="onnxruntime" if engine == "onnxruntime" else "openvino",
        output=str(file.artifact),
        calibration=calibration,
        quantize=QuantizeSection(
            mode=quantize.calibrate_mode,
            per_channel=quantize.quantize_per_channel,
            skip_convolutions=quantize.skip_conv_layers or (),
        ),
        preprocess=preprocess,
        append_softmax=bool(file.graph and file.graph.extra_ops and file.graph.extra_ops.type == "softmax"),
    )
    is_written = file.dataset is not None and bool(file.dataset.process_ops)
    return Plan(config=config, notes=tuple(notes), assumed=None if is_written else VARIANTS[file.name])


def check_assumed_preprocess(plan: Plan) -> None:
    """Refuse a variant's published preprocessing for a model with another number of classes.

    Raises:
        ConfigError: process ops are missing, and the model's classes are not the published ones.
        ModelError: the model cannot be read.
    """
    from nestforge.compile.classifier import adapt_classifier
    from nestforge.compile.onnxfile import read_onnx
    from nestforge.networks.checkpoint import read_checkpoint

    if plan.assumed is None:
        return
    model = plan.config.model
    if model.onnx is not None:
        classes = adapt_classifier(read_onnx(Path(model.onnx))).num_classes
    else:
        classes = len(read_checkpoint(Path(str(model.weights)), plan.assumed)["fc.bias"])
    if classes != plan.assumed.num_classes:
        raise ConfigError(
            f"{model.onnx or model.weights} has {classes} classes but {plan.assumed.name} was published with "
            f"{plan.assumed.num_classes}: write dataset.process_ops, such as [{{type: DecodeImage}}, "
            "{type: Resize, size: [64, 64]}, {type: Normalize, mean: [0.485, 0.456, 0.406], "
            "std: [0.229, 0.224, 0.225]}, {type: ToTensor}]"
        )


def _list_hardware_keys(file: VamcFile) -> list[str]:
    found = []
    if file.backend.compile is not None:
        found += [f"backend.compile.{key}" for key in sorted(file.backend.compile.model_fields_set)]
    if file.backend.quantize is not None:
        hardware = {"overflow_adaptive", "calibrate_chunk_by", "weight_scale"}
        found += [f"backend.quantize.{key}" for key in sorted(hardware & file.backend.quantize.model_fields_set)]
    return found


def _make_preprocess(file: VamcFile, notes: list[str]) -> Preprocess:
    _, height, width = file.chw
    ops = file.dataset.process_ops if file.dataset else ()
    if not ops:
        if file.name not in VARIANTS or height != width:
            raise ConfigError(
                f"{file.name}: dataset.process_ops is missing, and this model has no published preprocessing; add them"
            )
        notes.append(f"no dataset.process_ops: the published preprocessing of {file.name} is used")
        return make_reference_preprocess(height)
    steps: list[GeometryOp] = []
    mean, std, channels = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb"
    for op in ops:
        if isinstance(op, VendorResize):
            steps.append(Resize(size=op.size))
        elif isinstance(op, VendorCrop):
            steps.append(CenterCrop(size=op.crop_size[0] if isinstance(op.crop_size, tuple) else op.crop_size))
        elif isinstance(op, Normalize):
            unit = 255.0 if max(op.mean) > 1 or max(op.std) > 2 else 1.0
            mean, std = _scale(op.mean, unit), _scale(op.std, unit)
        elif isinstance(op, CvtColor) and op.code == "RGB2BGR":
            channels = "bgr"
        elif isinstance(op, CvtColor) and op.code == "BGR2RGB":
            notes.append("CvtColor BGR2RGB changes nothing: images are decoded to RGB here")
    try:
        preprocess = Preprocess(ops=tuple(steps), mean=mean, std=std, channels="bgr" if channels == "bgr" else "rgb")
    except ValidationError as error:
        raise ConfigError(f"dataset.process_ops: Normalize: {explain_invalid(error, Preprocess)}") from error
    if preprocess.output_hw != (height, width):
        made = preprocess.output_hw
        shown = f"{made[0]}x{made[1]}" if made else "images of no fixed size"
        raise ConfigError(
            f"dataset.process_ops give {shown} but frontend.shape is {height}x{width}; make the last op give that size"
        )
    return preprocess


def _scale(values: Triple, unit: float) -> Triple:
    return values[0] / unit, values[1] / unit, values[2] / unit
