"""An image classifier as anybody exports it, made into the one form that everything else works with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from nestforge.artifact.manifest import ModelInterface, ScoreKind
from nestforge.compile.border import adapt_input, adapt_output
from nestforge.compile.classoutput import ClassOutput, choose_class_output
from nestforge.compile.floats import widen_floats
from nestforge.compile.imageinput import ImageInput, find_image_input, name_dtype
from nestforge.compile.scorekind import recognise_graph
from nestforge.compile.valueshapes import forget_shapes, infer_values, name_batches
from nestforge.engines.base import Settings
from nestforge.errors import ModelError

MAX_INNER_BATCH = 64  # that is tried because a reshape is to that size
DEFAULT_SIDE = 224  # of images whose size neither the model nor anybody else says


@dataclass(frozen=True, kw_only=True)
class ImageClassifier:
    """What an adapted graph takes, (B, 3, H, W) float32, and gives, (B, classes) float32.

    A None side or batch is dynamic; None `scores` are not known from the graph. `interface` is what the graph took and
    gave before.
    """

    input_name: str
    fixed_batch: int | None
    fixed_height: int | None
    fixed_width: int | None
    num_classes: int
    scores: ScoreKind | None
    interface: ModelInterface


def adapt_classifier(
    model: ir.Model,
    *,
    output: str | None = None,
    labels: int | None = None,
    height: int = DEFAULT_SIDE,
    width: int = DEFAULT_SIDE,
    channels: str = "rgb",
) -> ImageClassifier:
    """Give a graph one input, (B, 3, H, W) float32, and one output, (B, classes) float32, in place.

    `output` names the scores, `labels` is how many classes there are; both only matter where the graph has several
    outputs. `height` and `width` are those of the images, where the graph takes any. `channels` is their order, rgb
    or bgr.

    Raises:
        ModelError: it is not a classifier of images: other inputs or outputs, more of them, or contradictions.
    """
    image = find_image_input(model)
    widened = widen_floats(model)
    adapt_input(model, image, channels=channels)
    forget_shapes(model)
    settings = Settings(height=image.height or height, width=image.width or width)
    names = [str(value.name) for value in model.graph.outputs]
    batch, chosen = _choose_output(model, image.batch, wanted=output, labels=labels, settings=settings)
    interface = _describe(image, str(chosen.value.name), chosen.dims, names, widened)
    adapt_output(model, chosen.value, rank=len(chosen.dims), classes=chosen.classes, batch=batch)
    NameFixPass()(model)
    infer_values(model)
    if batch is None:
        name_batches(model, settings.height, settings.width)
    return ImageClassifier(
        input_name=str(model.graph.inputs[0].name),
        fixed_batch=batch,
        fixed_height=image.height,
        fixed_width=image.width,
        num_classes=chosen.classes,
        scores=recognise_graph(model),
        interface=interface,
    )


def _choose_output(
    model: ir.Model, batch: int | None, *, wanted: str | None, labels: int | None, settings: Settings
) -> tuple[int | None, ClassOutput]:
    """Return the batch that the graph is fixed to, if any, and the output to classify by.

    A graph that takes any batch, and yet scores no single image, may have been made for a batch that a reshape holds.
    """
    first: ModelError | None = None
    for size in [batch] if batch else [1, *_list_inner_batches(model)]:
        try:
            chosen = choose_class_output(model, wanted=wanted, labels=labels, settings=replace(settings, batch=size))
        except ModelError as error:
            first = first or error
            continue
        taken = model.graph.inputs[0]
        if size > 1 and taken.shape is not None:
            taken.shape = ir.Shape([size, *taken.shape[1:]])
        return (size if size > 1 else batch), chosen
    assert first is not None
    raise first


def _list_inner_batches(model: ir.Model) -> list[int]:
    """Return the batches, above 1, that reshapes of the graph may have been made for."""
    found = set()
    for node in model.graph:
        target = node.inputs[1] if node.op_type == "Reshape" and len(node.inputs) > 1 else None
        tensor = ir.convenience.get_const_tensor(target) if target is not None else None
        if tensor is not None and tensor.size:
            found.add(int(tensor.numpy().reshape(-1)[0]))
    return sorted(batch for batch in found if 1 < batch <= MAX_INNER_BATCH)


def _describe(
    image: ImageInput, output: str, dims: tuple[int, ...], outputs: list[str], widened: tuple[str, ...]
) -> ModelInterface:
    return ModelInterface(
        input_layout=image.layout,
        input_dtype=name_dtype(image.dtype),
        input_channels=image.channels,
        output=output,
        output_shape=dims,
        unused_outputs=tuple(name for name in outputs if name != output),
        widened=widened,
    )
