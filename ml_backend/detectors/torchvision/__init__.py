"""Mask Scoring R-CNN on torchvision: the detector that pip alone installs."""
