"""Matrix products of the sizes that networks use, in the libraries that are there: the most a machine computes."""

from __future__ import annotations

import base64
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Callable, List, Optional, Tuple

import numpy as np

# ONNX graphs of one product c = a b, of any size, so that no package that writes graphs is needed.
PRODUCT_GRAPHS = {
    "float32": "CAkSADphChEKAWEKAWISAWMiBk1hdE11bBIHcHJvZHVjdFoVCgFhEhAKDggBEgoKAxIBbQoDEgFrWhUKAWISEAoOCAESCgoDEgFrCg"
    "MSAW5iFQoBYxIQCg4IARIKCgMSAW0KAxIBbkIECgAQFA==",
    "float16": "CAkSADphChEKAWEKAWISAWMiBk1hdE11bBIHcHJvZHVjdFoVCgFhEhAKDggKEgoKAxIBbQoDEgFrWhUKAWISEAoOCAoSCgoDEgFrCg"
    "MSAW5iFQoBYxIQCg4IChIKCgMSAW0KAxIBbkIECgAQFA==",
    "int8": "CAkSADpoChgKAWEKAWISAWMiDU1hdE11bEludGVnZXISB3Byb2R1Y3RaFQoBYRIQCg4IAhIKCgMSAW0KAxIBa1oVCgFiEhAKDggDEgoKAx"
    "IBawoDEgFuYhUKAWMSEAoOCAYSCgoDEgFtCgMSAW5CBAoAEBQ=",
}
"""By precision: MatMul, or MatMulInteger of uint8 and int8 into int32."""

# Rows, inner and columns: two square ones, and a layer of a small transformer over 1672 tokens, there and back.
SIZES = ((1024, 1024, 1024), (2048, 2048, 2048), (1672, 160, 640), (1672, 640, 160))
_GPU_SIZES = ((4096, 4096, 4096), (8192, 8192, 8192))
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Product:
    """A matrix product that is ready to run.

    Attributes:
        name: library and size.
        precision: float32, float16 or int8, with ``cuda_`` before it on a GPU.
        flops: operations of one run, a product and a sum counting two.
        run: computes it.
    """

    name: str
    precision: str
    flops: float
    run: Callable[[], object]


def products(threads: int, *, numpy: bool = True) -> List[Product]:
    """NumPy's products in single precision and, where onnxruntime is installed, its own in all precisions it has.

    Args:
        threads: of onnxruntime; NumPy's are set by the environment before it is imported.
        numpy: whether to take NumPy's.
    """
    made = [_numpy_product(size) for size in SIZES] if numpy else []
    ort = _onnxruntime()
    if ort is None:
        return made
    for precision in ("float32", "int8"):
        session = _session(ort, precision, threads, "CPUExecutionProvider")
        if session is not None:
            made += [_onnx_product(session, precision, size) for size in SIZES]
    if _CUDA in ort.get_available_providers():
        for precision in ("float32", "float16"):
            session = _session(ort, precision, threads, _CUDA)
            if session is not None:
                made += [_bound_product(session, precision, size, "cuda") for size in _GPU_SIZES]
    return made


def _onnxruntime() -> Optional[ModuleType]:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        return None


def _numpy_product(size: Tuple[int, int, int]) -> Product:
    a, b = _factors("float32", size)
    out = np.empty((size[0], size[2]), np.float32)
    return Product(_name("NumPy", size), "float32", _flops(size), lambda: np.matmul(a, b, out=out))


def _session(ort: ModuleType, precision: str, threads: int, provider: str) -> Optional[Any]:
    """A session, or None where this onnxruntime does not have the product on that device."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(base64.b64decode(PRODUCT_GRAPHS[precision]), options, providers=[provider])
    except Exception:  # onnxruntime's errors have no common base but this
        return None
    return session if session.get_providers()[0] == provider else None


def _onnx_product(session: Any, precision: str, size: Tuple[int, int, int]) -> Product:
    a, b = _factors(precision, size)
    name = _name(f"onnxruntime {precision}", size)
    return Product(name, precision, _flops(size), lambda: session.run(None, {"a": a, "b": b}))


def _bound_product(session: Any, precision: str, size: Tuple[int, int, int], device: str) -> Product:
    """A product of factors that lie on the device already, where its result stays."""
    ort = importlib.import_module("onnxruntime")
    binding = session.io_binding()
    for name, factor in zip("ab", _factors(precision, size), strict=True):
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(factor, device, 0))
    binding.bind_output("c", device, 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return Product(_name(f"onnxruntime {device} {precision}", size), f"{device}_{precision}", _flops(size), run)


def _factors(precision: str, size: Tuple[int, int, int]) -> Tuple[np.ndarray, np.ndarray]:
    rows, inner, columns = size
    rng = np.random.default_rng(0)
    if precision == "int8":
        a = rng.integers(0, 255, (rows, inner)).astype(np.uint8)
        return a, rng.integers(-127, 127, (inner, columns)).astype(np.int8)
    kind = np.dtype(precision)
    return rng.standard_normal((rows, inner)).astype(kind), rng.standard_normal((inner, columns)).astype(kind)


def _flops(size: Tuple[int, int, int]) -> float:
    return 2.0 * size[0] * size[1] * size[2]


def _name(library: str, size: Tuple[int, int, int]) -> str:
    return f"{library} {size[0]}x{size[1]}x{size[2]}"
