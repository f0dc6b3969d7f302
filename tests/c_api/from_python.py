"""libhybridq from Python with ctypes and NumPy: quantize, cluster, step the optimizer, train.

    python3 from_python.py path/to/libhybridq.so TEXT_FILE
"""

import ctypes
import json
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

import numpy as np


class Quantizer(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("precision", c_uint32), ("granularity", c_uint32), ("scale_rule", c_uint32),
                ("group_size", c_uint64), ("scale_value", c_double), ("least_squares", c_uint32)]


class KMeansOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("max_iterations", c_uint32), ("clusters", c_uint64), ("seed", c_uint64)]


class ParameterSpec(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("kind", c_uint32), ("precision", c_uint32), ("dimensions", c_uint32),
                ("shape", POINTER(c_size_t)), ("name", c_char_p), ("initial_deviation", c_float),
                ("initial_value", c_float)]


class TrainingState(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("has_cluster", c_uint32), ("step", c_uint64), ("cluster", c_uint64),
                ("gradient_norm", c_double), ("loss", c_float), ("learning_rate", c_float), ("weight_decay", c_float)]


class StepReport(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("constraint_active", c_uint32), ("step", c_uint64), ("tokens", c_uint64),
                ("loss", c_double), ("gradient_norm", c_double), ("tokens_per_second", c_double),
                ("learning_rate", c_float), ("learning_rate_multiplier", c_float), ("trust_radius", c_float),
                ("flip_rate", c_float), ("update_norm", c_double), ("quant_error", c_double), ("seconds", c_double),
                ("cluster", c_int64)]


def sized(structure, /, **fields):
    return structure(struct_size=ctypes.sizeof(structure), **fields)


library = ctypes.CDLL(sys.argv[1])
library.hq_last_error.restype = library.hq_version.restype = c_char_p
PRECISION_INT4, PRECISION_F32, SCALE_PER_ROW, PARAMETER_LINEAR = 3, 6, 1, 0


def call(name, *arguments):
    """Calls hq_NAME. Python's int would become a 32-bit int: it is passed as size_t, arrays as pointers."""
    def convert(value):
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            return value.ctypes.data_as(c_void_p)
        return c_size_t(value) if isinstance(value, int) else value
    status = getattr(library, "hq_" + name)(*map(convert, arguments))
    if status != 0:
        raise RuntimeError(f"{library.hq_last_error().decode()} (status {status})")


def quantize(context):
    weights = np.random.default_rng(0).standard_normal((64, 100)).astype(np.float32)
    quantizer = sized(Quantizer, precision=PRECISION_INT4, granularity=SCALE_PER_ROW)
    codes, scales = np.empty(weights.shape, np.int8), np.empty(len(weights), np.float32)
    call("quantize", context, byref(quantizer), weights, 64, 100, codes, scales, 64, None)
    error = np.square(codes * scales[:, None] - weights).mean() / np.square(weights).mean()
    print(f"int4: relative squared error {error:.4f}")
    assert np.abs(codes).max() == 7 and error < 0.02
    weights[3, 4] = np.nan
    try:
        call("quantize", context, byref(quantizer), weights, 64, 100, codes, scales, 64, None)
        raise AssertionError("NaN was accepted")
    except RuntimeError as refused:
        assert "element 304" in str(refused), refused


def cluster(context):
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal(10 * k, 1, (50, 3)) for k in range(4)]).astype(np.float32)
    kmeans, labels = c_void_p(), np.empty(len(points), np.uint32)
    call("kmeans_fit", context, byref(sized(KMeansOptions, clusters=4)), points, len(points), 3, byref(kmeans))
    call("kmeans_labels", kmeans, labels, len(labels))
    library.hq_kmeans_free(kmeans)
    assert all(len(set(labels[50 * k:50 * k + 50])) == 1 for k in range(4)) and len(set(labels)) == 4
    print("k-means: four clusters found")


def regress(context):
    """Least squares with the hybrid optimizer, on NumPy's own arrays."""
    rng = np.random.default_rng(2)
    x, truth = rng.standard_normal((200, 5)).astype(np.float32), np.array([[1, -2, 3, 0, 0.5]], np.float32)
    y = x @ truth.T
    shape = (c_size_t * 2)(1, 5)
    spec = sized(ParameterSpec, kind=PARAMETER_LINEAR, precision=PRECISION_F32, dimensions=2, shape=shape, name=b"w")
    parameters, optimizer = c_void_p(), c_void_p()
    call("parameters_new", byref(spec), 1, c_uint64(0), byref(parameters))
    call("optimizer_new", parameters, b'{"initial_trust_radius": 0.2}', byref(optimizer))
    weight = np.zeros((1, 5), np.float32)
    losses = []
    for step in range(400):
        error = x @ weight.T - y
        gradient = np.ascontiguousarray(2 * error.T @ x / len(x), np.float32)
        losses.append(float(np.square(error).mean()))
        state = sized(TrainingState, step=step, loss=losses[-1], learning_rate=0.05)
        pointers = [(c_void_p * 1)(array.ctypes.data) for array in (weight, gradient)]
        call("optimizer_step_arrays", optimizer, context, parameters, *pointers, 1, byref(state), None)
    library.hq_optimizer_free(optimizer)
    library.hq_parameters_free(parameters)
    print(f"least squares: loss {losses[0]:.3f} -> {losses[-1]:.2e}")
    assert losses[-1] < 1e-3 * losses[0]


def train(context, text):
    model = {"model_type": "bitnet", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
             "num_attention_heads": 2, "vocab_size": 256, "max_position_embeddings": 64, "hidden_act": "silu"}
    with open("model.json", "w") as file:
        json.dump(model, file)
    config = {"data": text, "model": "model.json", "seq_length": 64, "batch_size": 4, "max_steps": 30,
              "base_learning_rate": 0.01, "eval_windows": 8}
    trainer, before, after, report = c_void_p(), c_double(), c_double(), sized(StepReport)
    call("trainer_new", context, json.dumps(config).encode(), byref(trainer))
    call("trainer_evaluate", trainer, byref(before))
    for _ in range(30):
        call("trainer_step", trainer, byref(report))
    call("trainer_evaluate", trainer, byref(after))
    pieces = []
    callback = ctypes.CFUNCTYPE(ctypes.c_int32, c_void_p, c_size_t, c_void_p)(
        lambda piece, size, _: pieces.append(ctypes.string_at(piece, size)) or 0)
    call("trainer_generate", trainer, b"the ", None, callback, None)
    library.hq_trainer_free(trainer)
    print(f"{report.step} steps: validation loss {before.value:.3f} -> {after.value:.3f} nats per byte")
    assert report.step == 30 and after.value < before.value - 0.5 and pieces


def main():
    context = c_void_p()
    call("context_new", None, byref(context))
    print("libhybridq", library.hq_version().decode())
    quantize(context)
    cluster(context)
    regress(context)
    train(context, sys.argv[2])
    library.hq_context_free(context)
    print("all checks passed")


main()
