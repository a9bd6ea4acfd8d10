"""Interactive segmentation: a mask from a box and clicks, and corrected by clicks (Benenson, Popov, Ferrari)."""
