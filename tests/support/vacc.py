"""A vdsp_params file for small images."""

from __future__ import annotations


def make_vdsp(size: int) -> dict[str, object]:
    """A file that resizes to 72 and crops `size` at 4, 4."""
    config = {
        "OimageWidth": size,
        "OimageHeight": size,
        "CropX": 4,
        "CropY": 4,
        "ResizeWidth": 72,
        "ResizeHeight": 72,
        "Mean": [0.485, 0.456, 0.406],
        "Std": [0.229, 0.224, 0.225],
        "NormaType": "DIV255_MINUSMEAN_DIVSTD",
        "ResizeType": "BILINEAR_PILLOW",
    }
    return {"OpType": "FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR", "OpConfig": config}
