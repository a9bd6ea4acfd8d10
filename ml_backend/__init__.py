"""Detectors, mask features, rendering and the Label Studio ML backend."""
