#!/usr/bin/env python3
"""Images -> npz files and their list: --dataset_path, --target_path, --text_path."""

from nestforge.vacc.commands import image2npz

image2npz()
