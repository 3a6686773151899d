"""Bad and odd input, made and not stored: see `corpus`."""
