"""Semantic segmentation: the only importer of mmseg, mmengine and mmcv."""
