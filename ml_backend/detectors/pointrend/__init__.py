"""PointRend on detectron2, which is installed from its repository."""
