"""From decisions to masks: propagation, duplicates, certification and the COCO export; pure functions."""
