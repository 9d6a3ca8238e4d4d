"""python3 -m runner, in a bundle's folder: verify, load, measure, compare, write report.json."""

import argparse
import hashlib
import json
import os
import sys
import time
from typing import Any, Dict, List, Optional

from . import runtimes
from .setting import (
    EXIT_ENVIRONMENT,
    EXIT_INPUT,
    EXIT_INTEGRITY,
    EXIT_MEASUREMENT,
    PROVIDERS,
    Refused,
    Setting,
    options_of,
)

BUNDLE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PARITY_BATCH, PARITY_NUMBERS = 32, 2000000  # images compared at once, and numbers that they have: boards are small
MOST_MINUTES = 24 * 60


def verified(folder: str) -> Dict[str, Any]:
    """The manifest, after every file that it lists has been found unchanged."""
    try:
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as handle:
            manifest: Dict[str, Any] = json.load(handle)
    except (OSError, ValueError, RecursionError) as error:
        raise Refused("manifest.json cannot be read: %s" % error, EXIT_INTEGRITY)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise Refused("manifest.json is none of edgekd's: it lists no files", EXIT_INTEGRITY)
    for name, wanted in sorted(manifest["files"].items()):
        try:
            with open(os.path.join(folder, name), "rb") as handle:
                found = hashlib.sha256(handle.read()).hexdigest()
        except OSError:
            raise Refused("%s is missing from the bundle" % name, EXIT_INTEGRITY)
        if found != wanted:
            raise Refused("%s is not the file that was packed: its sha256 differs" % name, EXIT_INTEGRITY)
    return manifest


def run(options: argparse.Namespace, say: Any) -> Dict[str, Any]:
    manifest = verified(BUNDLE)
    try:
        import numpy as np

        from . import measuring, sensors
    except ImportError as error:
        raise Refused("%s; on the device: python3 -m pip install numpy" % error, EXIT_ENVIRONMENT)
    choice = runtimes.here(manifest["target"], options.runtime, manifest["files"])
    runtime = runtimes.opened(choice.runtime)
    if options.reference and not runtimes.takes(choice.runtime, options.reference):
        say("%s is not measured: %s does not read it" % (options.reference, runtimes.PRODUCTS[choice.runtime]))
        options.reference = None
    say(choice.note)
    samples = np.load(os.path.join(BUNDLE, "samples.npz"), allow_pickle=False)
    pixels, teacher_logits = samples["pixels"], samples["teacher_logits"]
    shape, classes = pixels.shape[1:], teacher_logits.shape[1]
    evaluation = _evaluation(options.eval_data, shape, classes, np) if options.eval_data else None
    threads = manifest["threads"] if options.threads is None else options.threads
    asked = options_of(manifest["profile"], {"provider": options.provider})
    setting = Setting(shape, manifest["batch"], "fp32", threads, options.engines, **asked)
    x = pixels[np.arange(manifest["batch"]) % len(pixels)].astype(np.float32)

    files = {p: runtimes.form(choice.runtime, name, manifest["files"]) for p, name in manifest["graphs"].items()}
    paths = {p: os.path.join(BUNDLE, name) for p, name in sorted(files.items())}
    if options.reference:
        paths["teacher"] = options.reference
    infers, graphs = _loaded(runtime, paths, setting, x, say)
    protocol = measuring.QUICK if options.quick else measuring.FULL
    device = sensors.HERE.device()
    in_process = choice.runtime != "trtexec"  # there each call is a process
    if options.soak and not in_process:
        raise Refused("--soak needs a runtime in this process; trtexec starts one for each call", EXIT_INPUT)
    measured = measuring.measured(
        runtime, infers, x, protocol, setting, say, in_process=in_process, soak_minutes=options.soak
    )
    for name, infer in infers.items():
        say("comparing %s" % name)
        graphs[name].update(measured["graphs"][name])
        graphs[name].update(_compared(name, choice.runtime, infer, samples, evaluation, np))
    report = {
        "schema": 1,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "target": manifest["target"],
        "runtime": dict(runtime.describe(), note=choice.note),
        "device": device,
        "clock": runtime.clock,
        "batch": manifest["batch"],
        "protocol": protocol,
        "samples": len(pixels),
        "evaluated": 0 if evaluation is None else len(evaluation[1]),
        "parity": manifest["parity"],
    }
    report.update(measured)
    report["graphs"] = graphs
    return report


def _loaded(runtime: Any, paths: Dict[str, str], setting: Setting, x: Any, say: Any) -> Any:
    """({graph: infer}, {graph: facts}): each loaded and run once."""
    infers: Dict[str, Any] = {}
    graphs: Dict[str, Dict[str, Any]] = {}
    for name, path in paths.items():
        start = time.perf_counter()
        here = setting if name == "teacher" else setting._replace(precision=name)
        infers[name], facts = runtime.load(path, here, say)
        load_ms = 1e3 * (time.perf_counter() - start)
        graphs[name] = dict({"load_ms": load_ms}, **facts)
        graphs[name].update(file=os.path.basename(path), mb=_mb(path))
        if "first_ms" not in facts:
            start = time.perf_counter()
            infers[name](x)
            graphs[name]["first_ms"] = 1e3 * (time.perf_counter() - start)
    return infers, graphs


def _mb(path: str) -> float:
    beside = [runtimes.weights(path)] if path.endswith(".xml") else []
    return sum(os.path.getsize(one) for one in [path, *beside]) / 1e6


def _compared(name: str, runtime: str, infer: Any, samples: Any, evaluation: Any, np: Any) -> Dict[str, Any]:
    """What a graph answers, against the teacher, the host's answers and labels, as far as they are there."""
    from . import harness, per_class

    teacher_logits = samples["teacher_logits"]
    once = max(1, min(PARITY_BATCH, PARITY_NUMBERS // samples["pixels"][0].size))
    logits = harness.logits_of(infer, samples["pixels"], once)
    if not np.isfinite(logits).all():
        raise Refused("%s gives NaN or Inf on this device" % name, EXIT_MEASUREMENT)
    # LiteRT's graphs are not made from the ONNX ones: the host has answers of both
    known = [key for key in ("%s_%s_logits" % (name, runtime), "%s_logits" % name) if key in samples.files]
    host = samples[known[0]] if known else None
    found = {
        "agreement": harness.agreement(logits, teacher_logits),
        "agreement_by_class": per_class.agreement(logits, teacher_logits),
        "max_abs_from_host": None if host is None else float(np.abs(logits - host).max()),
        "accuracy": None,
        "evaluation": None,
    }
    if evaluation is not None:
        images, labels = evaluation
        answers = harness.logits_of(infer, images, once)
        found.update(accuracy=harness.accuracy(answers, labels), evaluation=per_class.evaluation(answers, labels))
    return found


def _evaluation(path: str, shape: Any, classes: int, np: Any) -> Any:
    """(images uint8 (N, C, H, W), labels (N,)) of an npz file."""
    try:
        data = np.load(path, allow_pickle=False)
        images, labels = data["images"], data["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise Refused("%s is not an npz file with images and labels: %s" % (path, error), EXIT_INPUT)
    if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) != len(labels):
        message = "%s: images must be uint8 (N, %s) with one label each; found %s %s" % (
            path, ", ".join(map(str, shape)), images.dtype, images.shape)  # fmt: skip
        raise Refused(message, EXIT_INPUT)
    if not np.issubdtype(labels.dtype, np.integer) or not ((labels >= 0) & (labels < classes)).all():
        raise Refused("%s: labels must be integers from 0 to %d" % (path, classes - 1), EXIT_INPUT)
    return images, labels


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes <= MOST_MINUTES:
        raise argparse.ArgumentTypeError("from 0 to %d minutes" % MOST_MINUTES)
    return minutes


def keep_runs(report: Dict[str, Any], out: str) -> None:
    """Moves every run out of the report into a file beside it, and writes down its name and sha256."""
    from . import measuring

    times_ms, idle_ms = report.pop("times_ms"), report.pop("idle_ms")
    try:
        report["raw"] = measuring.kept(measuring.raw_path(out), times_ms, idle_ms)
    except OSError as error:
        raise Refused("cannot write %s: %s" % (measuring.raw_path(out), error), EXIT_ENVIRONMENT)


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m runner", description="Measure this bundle on this device.")
    parser.add_argument("--quick", action="store_true", help="2 s and 200 runs a graph instead of 10 s and 1000")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the profile's; 0: all)")
    parser.add_argument("--eval-data", metavar="NPZ", help="images uint8 (N, C, H, W) and labels, to report accuracy")
    parser.add_argument("--reference", metavar="ONNX", help="the teacher's graph, measured in turns with the student's")
    parser.add_argument("--out", default=os.path.join(BUNDLE, "report.json"), help="default: report.json in the bundle")
    parser.add_argument("--runtime", choices=runtimes.NAMES, help="default: the one that the graphs are for")
    parser.add_argument("--provider", choices=PROVIDERS, help="of ONNX Runtime (default: the profile's, else cpu)")
    parser.add_argument("--engines", metavar="DIR", default=os.path.join(BUNDLE, "engines"), help="built by TensorRT")
    parser.add_argument(
        "--soak", type=_minutes, metavar="MINUTES", help="and run so long at full load: does it hold its speed?"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress lines")
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        if text and not options.quiet:
            print(text, file=sys.stderr, flush=True)

    try:
        report = run(options, say)
        keep_runs(report, options.out)
        temporary = "%s.%d.tmp" % (options.out, os.getpid())
        try:
            with open(temporary, "w", encoding="utf-8") as handle:
                json.dump(report, handle, indent=2)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, options.out)
        except OSError as error:
            raise Refused("cannot write %s: %s" % (options.out, error), EXIT_ENVIRONMENT)
    except Refused as error:
        print("error: %s" % error, file=sys.stderr)
        return error.exit_code
    for name, graph in report["graphs"].items():
        t = graph["latency_ms"]
        say(
            "%-8s p50 %.3f  p90 %.3f  p99 %.3f ms   agreement %.4f"
            % (name, t["p50"], t["p90"], t["p99"], graph["agreement"])
        )
    for warning in report["warnings"]:
        say("warning: %s" % warning)
    if report["soak"]:
        say("long run of %s: %s" % (report["soak"]["graph"], report["soak"]["said"]))
    say("%s  %s" % ("valid" if report["valid"] else "not valid: " + "; ".join(report["reasons"]), options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
