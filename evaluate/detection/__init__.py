"""Detection and instance segmentation: the only importer of detectron2."""
