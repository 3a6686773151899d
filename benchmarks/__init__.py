"""Measurements that are published: speed against what else there is, and accuracy against float32. See README.md."""
