"""Any checkpoint as a backbone, its features of a set, and two probes: python probe.py CHECKPOINT DATA [CATALOG]."""

import sys
from pathlib import Path

from evaluate.api import Catalog, extract, knn_top1, load_backbone, measure

checkpoint, data, *catalog = sys.argv[1:]
sets = Catalog.load(Path(catalog[0]) if catalog else None)
backbone = load_backbone(checkpoint)
train, test = (extract(backbone, sets.images(data, split)) for split in ("train", "test"))
print(f"{backbone.metadata.backbone}: {len(train)} and {len(test)} images, {train.width} features each")
print(f"20 nearest neighbours: {knn_top1(train, test):.2f} % top-1")
for metric in measure("logreg", backbone, data, catalog=sets, changes={"grid_size": 5}):
    print(f"logistic regression: {metric.name} {metric.value:.2f} %")
