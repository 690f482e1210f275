"""One exact search for neighbours in a process of its own, since a BLAS picks its kernels when it is loaded.

python -m benchmarks.perf.peers.neighbours ours|faiss OUT.npy IMAGES WIDTH      prints the CPU seconds and the kernels
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

K = 200
QUERIES = 1000


def search(who: str, out: Path, images: int, width: int) -> dict[str, object]:
    """Search once to warm up and once for the clock; the indices go to `out`."""
    import threadpoolctl
    import torch

    from benchmarks.perf.peers.clusters import synthetic
    from evaluate import knn
    from evaluate.protocols.knn import PROTOCOLS

    torch.set_num_threads(1)
    data, queries = synthetic(images, width, 0), synthetic(QUERIES, width, 2)
    if who == "faiss":
        import faiss

        faiss.omp_set_num_threads(1)
        train, query = (
            values / np.linalg.norm(values, axis=1, keepdims=True)
            for values in (features.take(np.arange(len(features))) for features in (data, queries))
        )

        def once() -> np.ndarray:
            return faiss.knn(query, train, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    else:

        def once() -> np.ndarray:
            found = knn.neighbours(data, queries, K, PROTOCOLS["dino"], torch.device("cpu"))
            return np.concatenate([index.numpy() for _start, _similarity, index in found])

    with threadpoolctl.threadpool_limits(1):
        once()
        begin = time.process_time()
        found = once()
        cpu_s = time.process_time() - begin
    np.save(out, found)
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    # faiss brings an OpenBLAS of its own; numpy's is named after scipy.
    mine = [pool for pool in pools if (pool["prefix"] == "libscipy_openblas") == (who == "ours")] or pools
    return {"cpu_s": cpu_s, "kernels": f"{mine[0]['prefix']} {mine[0]['version']} {mine[0].get('architecture', '')}"}


def in_a_process(who: str, coretype: str, images: int, width: int) -> tuple[float, str, np.ndarray]:
    """CPU seconds, BLAS kernels and indices (Q, k) of one search with OPENBLAS_CORETYPE set; "" leaves it unset."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if coretype:
        environment["OPENBLAS_CORETYPE"] = coretype
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "index.npy"
        command = [sys.executable, "-m", __spec__.name, who, str(out), str(images), str(width)]
        told = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        return told["cpu_s"], told["kernels"], np.load(out)


if __name__ == "__main__":
    _, name, path, n, d = sys.argv
    print(json.dumps(search(name, Path(path), int(n), int(d))))
