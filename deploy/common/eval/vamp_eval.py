#!/usr/bin/env python3
"""Results of vamp -> top-1 and top-5: --result_path, --datalist, --label."""

from nestforge.vacc.commands import vamp_eval

vamp_eval()
