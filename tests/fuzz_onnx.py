"""Coverage-guided fuzzing of the ONNX reader, with atheris (not among edgekd's dependencies).

    pip install atheris
    mkdir corpus && python tests/fuzz_onnx.py corpus -max_total_time=600 -timeout=20 -rss_limit_mb=4000

Anything but a TeacherError or a result is a finding. `python tests/fuzz_onnx.py --keep corpus` keeps inputs of every
outcome in tests/seeds/onnx.jsonl (base64, one a line); test_malicious.py replays them in seconds.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import fuzz_checkpoint
import numpy as np
from onnx import TensorProto, helper, numpy_helper

SEEDS = Path(__file__).parent / "seeds" / "onnx.jsonl"


def outcome(data: bytes) -> str:
    """What the ONNX reader makes of `data`: "onnx", or the code of its error. Anything else is our fault."""
    from edgekd.errors import TeacherError
    from edgekd.teacher.graphs import onnx_graph

    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(data)
        file.flush()
        try:
            return onnx_graph.read(Path(file.name)).format
        except TeacherError as error:
            return error.code
        except MemoryError:
            return "E0314"


def starts() -> list[bytes]:
    """Small classifiers of the operators that shapes go through, for the fuzzer to begin with."""
    rng = np.random.default_rng(0)

    def weights(**shapes: tuple[int, ...]) -> list[TensorProto]:
        return [numpy_helper.from_array(np.abs(rng.normal(size=s)).astype(np.float32), n) for n, s in shapes.items()]

    node = helper.make_node
    conv = [node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["b"])]
    pooled = [node("GlobalAveragePool", ["b"], ["c"]), node("Flatten", ["c"], ["d"])]
    gemm = [node("Gemm", ["d", "v"], ["y"], transB=1)]
    norm = [
        node("BatchNormalization", ["a", "s", "s", "s", "q"], ["b"]),
        node("MaxPool", ["b"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    reshaped = [
        node("Shape", ["x"], ["n"]), node("Gather", ["n", "zero"], ["m"], axis=0),
        node("Unsqueeze", ["m", "axes"], ["o"]), node("Concat", ["o", "rest"], ["p"], axis=0),
        node("Reshape", ["x", "p"], ["d"]), node("MatMul", ["d", "v"], ["z"]), node("Softmax", ["z"], ["y"], axis=1),
    ]  # fmt: skip
    numbers = [
        numpy_helper.from_array(np.array(v, dtype=np.int64), n) for n, v in (("zero", 0), ("axes", [0]), ("rest", [-1]))
    ]
    graphs = (
        ([*conv, *pooled, *gemm], weights(w=(4, 3, 3, 3), v=(5, 4))),
        ([conv[0], *norm, node("Flatten", ["e"], ["d"]), *gemm], weights(w=(2, 3, 3, 3), s=(2,), q=(2,), v=(3, 32))),
        (reshaped, [*weights(v=(192, 3)), *numbers]),
    )
    found = []
    for nodes, tensors in graphs:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "classes"])
        model = helper.make_model(
            helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 17)]
        )
        found.append(model.SerializeToString())
    return found


def main() -> None:
    if sys.argv[1:2] == ["--keep"]:
        return fuzz_checkpoint.keep(Path(sys.argv[2]), outcome, SEEDS)
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=["edgekd.teacher.graphs", "edgekd.program"]):
        import edgekd.teacher.graphs.onnx_graph  # noqa: F401
    corpus = Path(next(a for a in sys.argv[1:] if not a.startswith("-")))
    for index, data in enumerate(starts()):
        assert outcome(data) == "onnx", index
        (corpus / f"start{index}").write_bytes(data)

    def one(data: bytes) -> None:
        outcome(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
