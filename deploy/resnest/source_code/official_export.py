#!/usr/bin/env python3
"""Official ResNeSt checkpoint -> ONNX: --model_name, --size, --save_dir, --weights, --seed."""

from nestforge.vacc.commands import official_export

official_export()
