"""Engines that TensorRT built, kept under a name that says for what, and never given to another GPU or version.

An engine fits one version of TensorRT and one GPU; loading another one fails at best (NVIDIA/TensorRT#818, #977).
Beside each engine lies a small JSON file with all that it was made from, compared before TensorRT sees the engine.
"""

import hashlib
import json
import os
import re
from typing import Any, Dict, Optional

from .setting import EXIT_ENVIRONMENT, EXIT_INTEGRITY, Refused, Setting

SAID = {  # what an engine is made from, in the order in which a difference is named
    "tensorrt": "TensorRT",
    "gpu": "GPU",
    "compute_capability": "compute capability",
    "multiprocessors": "multiprocessors",
    "graph_sha256": "graph",
    "settings": "settings",
}


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def name_of(graph: str, made_from: Dict[str, Any]) -> str:
    """The file name of an engine, without its ending: graph, version, GPU, and a hash of all that it is made from."""
    whole = sha256_of(json.dumps(made_from, sort_keys=True).encode("utf-8"))
    stem = os.path.splitext(os.path.basename(graph))[0]
    text = "%s-trt%s-%s-sm%s-%s" % (
        stem,
        made_from["tensorrt"],
        made_from["gpu"],
        made_from["compute_capability"].replace(".", ""),
        whole[:16],
    )
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def settings_of(setting: Setting) -> Dict[str, Any]:
    """What of a setting makes another engine."""
    return {
        "batch": setting.batch,
        "shape": list(setting.shape),
        "workspace_mb": setting.workspace_mb,
        "dla_core": setting.dla_core,
    }


def timings_name(version: str, device: Dict[str, Any]) -> str:
    """The file name of the kernel timings that all engines of one version and GPU share."""
    text = "timings-trt%s-%s-sm%s.cache" % (version, device["gpu"], device["compute_capability"].replace(".", ""))
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def stored(folder: str, name: str, made_from: Dict[str, Any]) -> Optional[bytes]:
    """The engine kept under this name; None: there is none. Refused where it was made from anything else.

    An engine without its JSON is one whose writing was cut off, and counts as none. A missing folder is made.
    """
    path = os.path.join(folder, name)
    try:
        with open(path + ".json", encoding="utf-8") as handle:
            found = json.load(handle)
        with open(path + ".engine", "rb") as handle:
            engine = handle.read()
    except (FileNotFoundError, NotADirectoryError):
        _writable(folder)
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Refused("%s.json cannot be read: %s; remove it and it is built anew" % (path, error), EXIT_INTEGRITY)
    compare(path, found, made_from)
    if found.get("engine_sha256") != sha256_of(engine):
        message = "%s.engine is not the file that was built: its sha256 differs; remove it and it is built anew"
        raise Refused(message % path, EXIT_INTEGRITY)
    return engine


def _writable(folder: str) -> None:
    """Refuses a folder that cannot keep an engine, before minutes go into building one."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise Refused("cannot make %s: %s; name another folder with --engines" % (folder, error), EXIT_ENVIRONMENT)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Refused("cannot write into %s; name another folder with --engines" % folder, EXIT_ENVIRONMENT)


def compare(path: str, found: Any, made_from: Dict[str, Any]) -> None:
    """Refused, with both sides named, where an engine was made from something else than this run's."""
    if not isinstance(found, dict):
        raise Refused("%s.json does not describe an engine; remove it and it is built anew" % path, EXIT_INTEGRITY)
    for key, said in SAID.items():
        if found.get(key) != made_from[key]:
            message = "%s.engine was built for %s %s, and this is %s; remove it and it is built anew" % (
                path, said, _brief(found.get(key)), _brief(made_from[key]))  # fmt: skip
            raise Refused(message, EXIT_INTEGRITY)


def told(folder: str, name: str) -> Dict[str, Any]:
    """What was written down of a stored engine's build: flags, shapes, seconds."""
    with open(os.path.join(folder, name) + ".json", encoding="utf-8") as handle:
        return dict(json.load(handle).get("build") or {})


def keep(folder: str, name: str, made_from: Dict[str, Any], engine: bytes) -> None:
    """Stores an engine, then the JSON that makes it count."""
    written(os.path.join(folder, name + ".engine"), engine)
    text = json.dumps(dict(made_from, engine_sha256=sha256_of(engine)), indent=2, sort_keys=True)
    written(os.path.join(folder, name + ".json"), text.encode("utf-8"))


def written(path: str, data: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise Refused("cannot write %s: %s; name another folder with --engines" % (path, error), EXIT_ENVIRONMENT)


def read_or_nothing(path: str) -> bytes:
    """A file's bytes; none where there is no file."""
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return b""


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text[:12] + "..." if re.fullmatch("[0-9a-f]{64}", text) else text
