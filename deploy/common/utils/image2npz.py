#!/usr/bin/env python3
"""Turn images into npz files, and list them: --dataset_path, --target_path, --text_path."""

from nestforge.vacc.commands import image2npz

image2npz()
