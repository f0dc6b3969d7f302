#!/usr/bin/env python3
"""k-means beside scikit-learn and faiss: the same points, the same first centroids, the same stopping rule.

    cargo build --release --lib
    python3 -m venv .peers && .peers/bin/pip install numpy scikit-learn faiss-cpu
    .peers/bin/python tests/peers/kmeans.py --threads 2

`iteration`: normal points, a fixed number of Lloyd's iterations, time per iteration. `convergence`: clustered points,
until no label changes (faiss knows no such rule: it gets the number of iterations that took). Medians; `ratio` is the
faster peer's time over ours. Inertias are computed here from the centroids each library returns, and must agree to 1e-4.
"""
import argparse
import ctypes
import json
import os
import statistics
import sys
import time
from pathlib import Path

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--threads", type=int, default=os.cpu_count())
ap.add_argument("--reps", type=int, default=5)
ap.add_argument("--library", default=str(Path(__file__).parents[2] / "target/release/libhybridq.so"))
ap.add_argument("--shapes", default="0,1,2,3", help="which of the shapes below, by number")
ap.add_argument("--modes", default="iteration,convergence")
ap.add_argument("--spread", type=float, default=0.7, help="distance of cluster centres, in deviations of a cluster")
ap.add_argument("--max-iterations", type=int, default=100)
ap.add_argument("--peers", default="sklearn,elkan,faiss", help="empty: hybridq alone")
args = ap.parse_args()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = str(args.threads)

import numpy as np  # noqa: E402 (after the thread limits)

SHAPES = [(10_000, 64, 10, 100), (100_000, 64, 64, 20), (1_000_000, 64, 256, 5), (100_000, 768, 64, 10)]


class ContextOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("threads", ctypes.c_uint32), ("isa", ctypes.c_char_p)]


class KMeansOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("max_iterations", ctypes.c_uint32), ("clusters", ctypes.c_uint64),
                ("seed", ctypes.c_uint64), ("no_pruning", ctypes.c_uint32)]


class KMeansInfo(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("converged", ctypes.c_uint32), ("points", ctypes.c_uint64),
                ("dim", ctypes.c_uint64), ("clusters", ctypes.c_uint64), ("iterations", ctypes.c_uint64),
                ("inertia", ctypes.c_double)]


lib = ctypes.CDLL(args.library)
lib.hq_last_error.restype = ctypes.c_char_p
lib.hq_context_isa.restype = ctypes.c_char_p
FLOATS = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
SIZE, POINTER = ctypes.c_size_t, ctypes.c_void_p
lib.hq_kmeans_fit_from.argtypes = [POINTER, POINTER, FLOATS, FLOATS, SIZE, SIZE, POINTER]
lib.hq_kmeans_centroids.argtypes = [POINTER, FLOATS, SIZE]
lib.hq_kmeans_get_info.argtypes = [POINTER, POINTER]
lib.hq_kmeans_free.argtypes = [POINTER]


def check(status):
    if status != 0:
        sys.exit(lib.hq_last_error().decode())


context = POINTER()
options = ContextOptions(ctypes.sizeof(ContextOptions), args.threads, None)
check(lib.hq_context_new(ctypes.byref(options), ctypes.byref(context)))
print(json.dumps({"isa": lib.hq_context_isa(context).decode(), "threads": args.threads}), flush=True)


def hybridq(points, centroids, iterations, pruning):
    """Final centroids and the iterations done."""
    kmeans, info = POINTER(), KMeansInfo(ctypes.sizeof(KMeansInfo))
    (n, dim), k = points.shape, len(centroids)
    options = KMeansOptions(ctypes.sizeof(KMeansOptions), iterations, k, 0, not pruning)
    options = ctypes.byref(options)
    check(lib.hq_kmeans_fit_from(context, options, centroids, points, n, dim, ctypes.byref(kmeans)))
    found = np.empty((k, dim), np.float32)
    check(lib.hq_kmeans_centroids(kmeans, found, k * dim))
    check(lib.hq_kmeans_get_info(kmeans, ctypes.byref(info)))
    lib.hq_kmeans_free(kmeans)
    return found, info.iterations


def sklearn_fit(points, centroids, iterations, algorithm):
    from sklearn.cluster import KMeans
    km = KMeans(len(centroids), init=centroids, n_init=1, max_iter=iterations, tol=0, algorithm=algorithm).fit(points)
    return km.cluster_centers_, km.n_iter_


def faiss_fit(points, centroids, iterations):
    import faiss
    faiss.omp_set_num_threads(args.threads)
    km = faiss.Kmeans(points.shape[1], len(centroids), niter=iterations, nredo=1, seed=1,
                      max_points_per_centroid=len(points), min_points_per_centroid=1)
    km.train(points, init_centroids=centroids)
    return km.centroids, iterations


def inertia(points, centroids):
    total, centroids = 0.0, centroids.astype(np.float64)
    for block in np.array_split(points, max(1, len(points) // 20_000)):
        block = block.astype(np.float64)
        squares = (block**2).sum(1)[:, None] - 2 * block @ centroids.T + (centroids**2).sum(1)
        total += squares.min(1).sum()
    return total


def measure(fit, reps):
    times, result = [], None
    for _ in range(reps):
        start = time.perf_counter()
        result = fit()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def compare(mode, points, centroids, iterations, reps):
    (n, dim), k = points.shape, len(centroids)
    rivals = {
        "hybridq": lambda: hybridq(points, centroids, iterations, True),
        "hybridq, no pruning": lambda: hybridq(points, centroids, iterations, False),
    }
    seconds, (_, done) = measure(rivals["hybridq"], 1)
    if "sklearn" in args.peers:
        rivals["sklearn lloyd"] = lambda: sklearn_fit(points, centroids, iterations, "lloyd")
    if "elkan" in args.peers and mode == "convergence" and n * k < 5e7:
        rivals["sklearn elkan"] = lambda: sklearn_fit(points, centroids, iterations, "elkan")
    if "faiss" in args.peers:
        rivals["faiss"] = lambda: faiss_fit(points, centroids, done + (mode == "convergence"))
    times, inertias = {}, {}
    for name, fit in rivals.items():
        times[name], (found, iterated) = measure(fit, reps)
        inertias[name] = inertia(points, found)
        milliseconds = times[name] * 1e3 / (iterated if mode == "iteration" else 1)
        row = {"mode": mode, "n": n, "dim": dim, "k": k, "who": name, "iterations": int(iterated),
               "ms": float(f"{milliseconds:.5g}"), "inertia": float(f"{inertias[name]:.8g}")}
        if mode == "iteration":
            times[name] = milliseconds
            row["gflop_s"] = float(f"{2 * n * dim * k / milliseconds / 1e6:.4g}")
        print(json.dumps(row), flush=True)
    peers = [name for name in times if not name.startswith("hybridq")]
    if peers:
        best = min(peers, key=times.get)
        spread = max(abs(value / inertias["hybridq"] - 1) for value in inertias.values())
        print(json.dumps({"mode": mode, "n": n, "dim": dim, "k": k, "best_peer": best,
                          "ratio": float(f"{times[best] / times['hybridq']:.4g}"),
                          "ratio_no_pruning": float(f"{times[best] / times['hybridq, no pruning']:.4g}"),
                          "inertias_within": float(f"{spread:.2g}")}), flush=True)


for number in map(int, args.shapes.split(",")):
    n, dim, k, iterations = SHAPES[number]
    rng = np.random.default_rng(number)
    reps = args.reps if n * dim * k < 1e9 else min(args.reps, 3)
    for mode in args.modes.split(","):
        points = rng.standard_normal((n, dim), dtype=np.float32)
        if mode == "convergence":
            centres = rng.standard_normal((k, dim), dtype=np.float32) * np.float32(args.spread)
            points += centres[rng.integers(0, k, n)]
        first = np.ascontiguousarray(points[rng.choice(n, k, replace=False)])
        compare(mode, points, first, iterations if mode == "iteration" else args.max_iterations, reps)
lib.hq_context_free(context)
