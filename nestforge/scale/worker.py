"""One worker of a cluster: an artifact opened once, and parts turned into tables of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestforge.artifact.artifact import open_artifact
from nestforge.data.parts import Part
from nestforge.errors import ArtifactError
from nestforge.inference.classifier import Classifier
from nestforge.inference.pipeline import choose_parallelism
from nestforge.scale.arrow import table_from_rows
from nestforge.scale.samples import Request, classify_samples, number_samples

if TYPE_CHECKING:
    import pyarrow as pa


class PartClassifier:
    """An artifact opened for parts, on as many streams as `threads`.

    Raises:
        ArtifactError: it cannot be opened, or its model is not the one with `model_sha256`.
        EngineError: the engine refuses it.
    """

    def __init__(
        self, artifact: str, *, model_sha256: str, threads: int, request: Request, verify: bool = True
    ) -> None:
        opened = open_artifact(artifact, verify=verify)
        if opened.model_sha256 != model_sha256:
            raise ArtifactError(f"{artifact} was replaced while it was used; run it again")
        self._classifier = Classifier(opened, choose_parallelism(opened, None, threads=threads))
        self._request = request

    def classify(self, number: int, part: Part) -> pa.Table:
        """Return the rows of part `number`, in order, as `ROWS`.

        Raises:
            DataError: the part is damaged, or holds images that the artifact was calibrated on.
        """
        rows = classify_samples(self._classifier, number_samples([(number, part)]), self._request)
        ordered = sorted(rows, key=lambda row: row.position)
        return table_from_rows(ordered, of=len(ordered))
