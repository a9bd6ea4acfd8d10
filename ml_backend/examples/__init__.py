"""Detectors by strangers, as they might be written: to be copied. Nothing of the package imports them."""
