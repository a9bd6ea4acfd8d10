"""A crop source of one image, for tests of the web server."""

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.server.app import MaskView, PartView

SECRET = "s3cr3t"


class Folder:
    """A crop source of one image with two masks, the second of another size than the image."""

    def __init__(self, path):
        self.path = path

    def mask(self, mask_id: int) -> MaskView:
        mask = np.zeros({1: (80, 100), 2: (80, 101)}[mask_id], np.uint8, order="F")
        mask[12:32, 10:40] = 1
        return MaskView(self.path, (10, 12, 30, 20), mask_util.encode(mask))

    def image(self, image_id: int):
        return {1: self.path, 2: self.path.with_name("gone.png")}[image_id]

    def part(self, number: int) -> PartView:
        window = {1: (0, 0, 100, 80), 2: (0, 0, 200, 80), 3: (20, 10, 60, 50)}[number]
        return PartView(self.path, window, [(self.mask(1).rle, 8)])
