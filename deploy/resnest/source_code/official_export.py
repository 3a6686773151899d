#!/usr/bin/env python3
"""Export an official ResNeSt checkpoint to ONNX: --model_name, --size, --save_dir, --weights, --seed."""

from nestforge.vacc.commands import official_export

official_export()
