"""Masks: COCO files, run lengths, brushes, pasting, rendering, Label Studio's regions."""
