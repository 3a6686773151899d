#!/usr/bin/env python3
"""Compute top-1 and top-5 from the results of vamp: --result_path, --datalist, --label."""

from nestforge.vacc.commands import vamp_eval

vamp_eval()
