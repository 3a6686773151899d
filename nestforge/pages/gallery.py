"""Changed predictions as cards: the image as the network saw it, and both predictions."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nestforge.data.preprocess import ImageHWC, Preprocess, read_image
from nestforge.errors import DataError
from nestforge.measure.paired import ChangedPrediction

MAX_PNG_BYTES = 48 << 10


@dataclass(frozen=True, kw_only=True)
class Card:
    """One changed prediction; `uri` holds the pixels, without loss if `exact` is True."""

    change: ChangedPrediction
    uri: str
    exact: bool
    width: int
    height: int


def make_cards(changed: Sequence[ChangedPrediction], preprocess: Preprocess, count: int) -> list[Card]:
    """Return cards for the first `count` images that can still be read."""
    cards: list[Card] = []
    for change in changed:
        if len(cards) == count:
            break
        try:
            image_hwc = read_image(Path(change.image), preprocess)
        except DataError:  # the image was removed after it was classified
            continue
        uri, exact = encode_image(image_hwc)
        height, width = image_hwc.shape[:2]
        cards.append(Card(change=change, uri=uri, exact=exact, width=width, height=height))
    return cards


def encode_image(image_hwc: ImageHWC) -> tuple[str, bool]:
    """Return a data URI and whether it is lossless: PNG, or JPEG if the PNG would be over 48 KiB."""
    image = Image.fromarray(image_hwc)
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    exact = data.tell() <= MAX_PNG_BYTES
    if not exact:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=92, subsampling=0)
    text = base64.b64encode(data.getvalue()).decode()
    return f"data:image/{'png' if exact else 'jpeg'};base64,{text}", exact
