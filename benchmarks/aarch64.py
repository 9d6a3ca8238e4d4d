"""A bundle on a 64-bit ARM, emulated: the same classes as here on every sample, and the runner ends well.

    sudo apt install qemu-user-static
    python benchmarks/aarch64.py BUNDLE [--root build/aarch64] [--out benchmarks/results/aarch64.json]

Makes a small Debian system for aarch64 in --root the first time (packages of the archive that this machine uses, ONNX
Runtime and numpy from the package index: about 250 MB), this machine's own packages stay as they are. Emulated: it
shows what is computed, and says nothing about speed. ONNX Runtime 1.27.0: later ones up to 1.32 crash under qemu when
they look at the processor's caches.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgekd.bundle import read_bundle
from edgekd.export import onnx_logits
from edgekd.files import write_json

RUNTIME = "onnxruntime==1.27.0"
PACKAGES = ("python3-minimal", "libpython3.11-stdlib", "python3.11", "libstdc++6", "libgcc-s1")
WHEELS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")
THERE = """
import json, sys
import numpy as np
import onnxruntime
pixels = np.load("samples.npz")["pixels"]
found = {}
for precision, name in json.load(open("manifest.json"))["graphs"].items():
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    x = pixels.astype(np.float32 if "float" in entry.type else np.uint8)
    size = entry.shape[0] if isinstance(entry.shape[0], int) else 64
    parts = [session.run(None, {entry.name: x[i : i + size]})[0] for i in range(0, len(x) - len(x) % size or 1, size)]
    found[precision] = np.concatenate(parts)
np.savez(sys.argv[1], **found)
"""


def system(root: Path) -> None:
    """Makes the aarch64 system in `root`, once."""
    if (root / "made").exists():
        return
    state, cache = root / "state", root / "cache"
    for folder in (state / "lists" / "partial", cache / "archives" / "partial", root / "root"):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures::": "arm64", "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "root", "Debug::NoLocking": "1", "Dir::Cache": cache,
        "Dir::State": state, "Dir::State::Lists": state / "lists", "Dir::State::status": state / "status",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "--download-only", "-y", *PACKAGES], check=True)
    for package in sorted((cache / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, root / "root"], check=True)
    wheels = [word for wheel in WHEELS for word in ("--platform", wheel)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(root / "site"), *wheels]
    pip += ["--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:", RUNTIME]
    subprocess.run(pip, check=True)
    (root / "made").touch()


def emulated(root: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the Python of the aarch64 system in `folder`."""
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        raise SystemExit("qemu-aarch64-static is not installed: apt install qemu-user-static")
    command = [qemu, "-L", str(root / "root"), str(root / "root" / "usr" / "bin" / "python3.11"), *arguments]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(root / "site"),
        "PYTHONHOME": str(root / "root" / "usr"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def compared(root: Path, folder: Path) -> dict[str, Any]:
    """Graph -> on how many samples both machines name the same class, and how far their logits are apart."""
    bundle = read_bundle(folder)
    pixels = np.load(folder / "samples.npz")["pixels"]
    with tempfile.TemporaryDirectory() as temporary:
        script, answers = Path(temporary) / "there.py", Path(temporary) / "logits.npz"
        script.write_text(THERE, encoding="utf-8")
        done = emulated(root, folder, str(script), str(answers))
        if done.returncode:
            raise SystemExit(f"the graphs do not run there ({done.returncode}):\n{done.stderr}")
        there = dict(np.load(answers))
    found = {}
    for precision, name in bundle.manifest.graphs.items():
        here = onnx_logits(folder / name, pixels)[: len(there[precision])]
        same = int((here.argmax(1) == there[precision].argmax(1)).sum())
        apart = float(np.abs(here - there[precision]).max())
        found[precision] = {"samples": len(here), "same_class": same, "largest_difference": apart}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--root", type=Path, default=Path("build/aarch64"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "aarch64.json")
    given = parser.parse_args()
    root, folder = given.root.resolve(), given.bundle.resolve()
    system(root)
    graphs = compared(root, folder)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "report.json"
        done = emulated(root, folder, "-m", "runner", "--quick", "--out", str(path))
        report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    document = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "here": f"{platform.machine()}, ONNX Runtime {onnxruntime.__version__}",
        "there": f"aarch64 under qemu-user, {RUNTIME.replace('==', ' ')}",
        "student": read_bundle(folder).manifest.student,
        "graphs": graphs,
        "runner": {
            "exit_code": done.returncode,
            "machine": report.get("device", {}).get("machine"),
            "agreement": {name: graph["agreement"] for name, graph in report.get("graphs", {}).items()},
        },
    }
    write_json(given.out, document)
    print(json.dumps(document, indent=2))
    if any(graph["same_class"] < graph["samples"] for graph in graphs.values()) or done.returncode not in (0, 5):
        print(done.stderr, file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
