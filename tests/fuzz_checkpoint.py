"""Coverage-guided fuzzing of the checkpoint readers, with atheris (not among edgekd's dependencies).

    pip install atheris
    mkdir corpus && python tests/fuzz_checkpoint.py corpus -max_total_time=600 -timeout=20 -rss_limit_mb=4000

Anything but a TeacherError or a result is a finding. The readers run in this process here, without the child's limits,
so that a crash is seen where it happens. Inputs that reached new code are kept in tests/seeds/checkpoint.jsonl
(base64, one a line) by `python tests/fuzz_checkpoint.py --keep corpus`; test_malicious.py replays them in seconds.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import pickle
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

SEEDS = Path(__file__).parent / "seeds" / "checkpoint.jsonl"
LARGEST, MOST = 1500, 300  # bytes of a kept seed, and how many


def taken_apart(data: bytes) -> str:
    """The format of `data`, or the code of the error that it is refused with. Anything else is our fault."""
    from edgekd.errors import TeacherError
    from edgekd.teacher.reading import files as reading

    data = contained(data)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        try:
            facts, _ = reading._taken_apart(file, "fuzzed", len(data))
        except TeacherError as error:
            return error.code
        except MemoryError:
            return "E0314"
    json.dumps(facts)
    return str(facts["format"])


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def contained(data: bytes) -> bytes:
    """The file: the input itself, or, where it has a mark, what a fuzzer could not write around it in a lifetime."""
    numbers = {"byteorder": b"little", "version": b"3\n", **{f"data/{i}": bytes(16) for i in range(6)}}
    match data[:2]:
        case b"C:":
            return packed({"data.pkl": data[2:], **numbers})
        case b"S:":
            return packed({"data.pkl": data[2:], "constants.pkl": b"", **numbers})
        case b"J:":
            return packed({"model.json": data[2:], "tensors/0": bytes(16), "tensors/1": bytes(16)})
        case b"T:":
            return (len(data) - 12).to_bytes(8, "little") + data[2:] if len(data) > 12 else data
    return data


def packed(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"a/{name}", data)
    return buffer.getvalue()


def starts() -> list[bytes]:
    """Small files of every kind, for the fuzzer to begin with; zip entries without checksums, which it can't mend."""
    state = {"module.a.weight": torch.arange(4.0), "module.a.bias": torch.ones(8, dtype=torch.float16)}
    value = {"state_dict": state, "args": argparse.Namespace(lr=0.1, deep={"x": [1, "a", None]}), "epoch": 3}
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.BatchNorm1d(2)), script)
    with zipfile.ZipFile(script) as archive:
        tree = archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))
    with zipfile.ZipFile(io.BytesIO(saved(value))) as archive:
        core = archive.read("archive/data.pkl")
    safe = save({"a": torch.ones(2), "b": torch.ones(1, dtype=torch.bfloat16)}, metadata={"k": "v"})
    module = {"name": "m", "parameters": [{"name": "w", "tensorId": "0"}], "submodules": []}
    table = [{"dims": ["2"], "strides": ["1"], "offset": "0", "dataType": "FLOAT", "data": {"key": "tensors/0"}}]
    old = json.dumps({"mainModule": module, "tensors": table}).encode()
    torch.serialization.set_crc32_options(False)
    made = [
        saved(value),
        saved(value, _use_new_zipfile_serialization=False),
        saved({"format": "edgekd-teacher-1", "facts": "{}", "state": state}),
        safe,
        b"S:" + tree,
        b"J:" + old,
        b"C:" + core,
        b"C:" + pickle.dumps({"a": 1}, 2),
        b"C:" + core.replace(b"cargparse\nNamespace", b"cos\nsystem"),
        b"T:" + safe[8:],
        saved({"epoch": 3}),
        *(pickle.dumps([1.5, {"a": (None, True, 2**70, b"x", {3})}], protocol) for protocol in range(6)),
    ]
    torch.serialization.set_crc32_options(True)
    return made


def keep(corpus: Path, outcome: Callable[[bytes], str], seeds: Path) -> None:
    """Writes the seeds: of every outcome the shortest inputs, in equal numbers."""
    groups: dict[str, list[bytes]] = {}
    for path in sorted(corpus.iterdir(), key=lambda p: (p.stat().st_size, p.name)):
        data = path.read_bytes()
        if len(data) <= LARGEST:
            groups.setdefault(outcome(data), []).append(data)
    kept = [data for group in groups.values() for data in group[: MOST // len(groups)]]
    seeds.parent.mkdir(exist_ok=True)
    seeds.write_text("".join(json.dumps(base64.b64encode(data).decode()) + "\n" for data in kept), encoding="utf-8")
    print({outcome: len(group) for outcome, group in groups.items()}, f"{len(kept)} kept")


def main() -> None:
    if sys.argv[1:2] == ["--keep"]:
        return keep(Path(sys.argv[2]), taken_apart, SEEDS)
    import atheris  # type: ignore[import-untyped]

    modules = ["edgekd.teacher", "pickletools", "torch._weights_only_unpickler"]
    sys.modules.pop("pickletools", None)
    with atheris.instrument_imports(include=modules):
        import edgekd.teacher.reading.files  # noqa: F401
    corpus = Path(next(a for a in sys.argv[1:] if not a.startswith("-")))
    for index, data in enumerate(starts()):
        (corpus / f"start{index}").write_bytes(data)

    def one(data: bytes) -> None:
        taken_apart(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
