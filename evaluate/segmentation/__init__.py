"""Semantic segmentation with mmsegmentation: the only importer of mmseg, mmengine and mmcv."""

from evaluate.segmentation.library import installed as installed
