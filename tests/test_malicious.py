"""Hostile and broken files: each is refused with cause and remedy, and nothing that it names is ever called."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import pickle
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fuzz_onnx
import pytest
import torch
from fuzz_checkpoint import SEEDS, starts, taken_apart
from safetensors.torch import save_file

from edgekd.errors import TeacherError
from edgekd.teacher.reading import walls
from edgekd.teacher.reading.child import isolated
from edgekd.teacher.reading.files import read

ROOT = Path(__file__).parent.parent
TOUCH, WRITE = "touch canary", "open('canary', 'w')"
HANG_S = 90  # a guard against hanging, not a measurement


# Pickles are put together by hand: pickle.dumps would not write most of these.
def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def glob(path: str) -> bytes:
    module, name = path.rsplit(" ", 1)
    return f"c{module}\n{name}\n".encode()


def stack_global(path: str) -> bytes:
    module, name = path.rsplit(" ", 1)
    return b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name)) + b"\x93"


def plain(value: Any) -> bytes:
    """The opcodes of a plain value, without PROTO and STOP."""
    return value if isinstance(value, bytes) else pickle.dumps(value, 2)[2:-1]


def call(path: str, *args: Any) -> bytes:
    """The opcodes of calling what `path` names; arguments that are bytes are opcodes themselves."""
    return glob(path) + b"(" + b"".join(plain(a) for a in args) + b"tR"


def whole(opcodes: bytes, protocol: int = 2) -> bytes:
    return (bytes([0x80, protocol]) if protocol > 1 else b"") + opcodes + b"."


SYSTEM = "posix system"
FAMILIES = {  # every family of opcodes that can import or call
    "reduce, protocol 0": b"cposix\nsystem\n(V" + TOUCH.encode() + b"\ntR.",
    "reduce, protocol 1": glob(SYSTEM) + b"(" + text(TOUCH) + b"tR.",
    "reduce, protocol 2": whole(glob(SYSTEM) + text(TOUCH) + b"\x85R"),
    "reduce, protocol 3": whole(call(SYSTEM, TOUCH), 3),
    "reduce, protocol 4 in a frame": whole(
        b"\x95" + struct.pack("<Q", 36) + stack_global(SYSTEM) + text(TOUCH) + b"\x85R", 4
    ),
    "reduce, protocol 5": whole(stack_global(SYSTEM) + b"\x94" + text(TOUCH) + b"\x94\x85R", 5),
    "inst": b"(V" + TOUCH.encode() + b"\niposix\nsystem\n.",
    "obj": whole(b"(" + glob("subprocess Popen") + plain(["touch", "canary"]) + b"o"),
    "newobj": whole(glob("subprocess Popen") + plain(["touch", "canary"]) + b"\x85\x81" + b"0" + call(SYSTEM, TOUCH)),
    "newobj_ex": whole(glob("builtins object") + b")}\x92" + b"0" + stack_global(SYSTEM) + text(TOUCH) + b"\x85R", 4),
    "build": whole(glob("types SimpleNamespace") + b")R" + plain({"a": 1}) + b"b0" + call("builtins exec", WRITE)),
    "build with slots": whole(glob("types SimpleNamespace") + b")RN}" + text("run") + call(SYSTEM, TOUCH) + b"s\x86b"),
    "through the memo": whole(glob(SYSTEM) + b"q\x070(h\x07" + text(TOUCH) + b"tR").replace(b"(h\x07", b"h\x07("),
    "popped at once": whole(call(SYSTEM, TOUCH) + b"0}"),
    "after a mark that is popped": whole(b"(" + call(SYSTEM, TOUCH) + b"1}"),
    "behind STOP": whole(b"}") + whole(call(SYSTEM, TOUCH)),
    "twice": whole(call(SYSTEM, TOUCH) + call(SYSTEM, TOUCH) + b"\x86"),
    "in a dictionary": whole(b"}" + text("state_dict") + call(SYSTEM, TOUCH) + b"s"),
    "as a key": whole(b"}" + call(SYSTEM, TOUCH) + text("x") + b"s"),
    "name with a dot": whole(stack_global("os path.os.system") + text(TOUCH) + b"\x85R", 4),
    "python 2's name": whole(call("__builtin__ eval", "__import__('os').system('touch canary')")),
    "python 2's module": whole(call("commands getoutput", TOUCH)),
}
ONLY_NAMED = {  # no call that the machine would make by itself, or a registry that is empty here
    "ext1": whole(b"\x82\x07)R"),
    "ext2": whole(b"\x83\x07\x01)R"),
    "ext4": whole(b"\x84\x07\x00\x00\x01)R"),
    "persid": b"Pposix.system\n.",
    "binpersid of text": whole(text("posix.system") + b"Q"),
    "binpersid of a module": whole(plain(("module", "posix", "system")) + b"Q"),
    "binpersid of a storage that is none": whole(plain(("storage", "torch.FloatStorage", "0", "cpu", 4)) + b"Q"),
    "global alone": whole(glob(SYSTEM)),
}


def bypass(path: str, *args: Any, then: tuple[Any, ...] | None = None) -> bytes:
    """Calls path(*args), and what that gives with `then`."""
    opcodes = call(path, *args)
    return whole(opcodes if then is None else opcodes + b"(" + b"".join(plain(a) for a in then) + b"tR")


BYPASSES = {  # ways past scanners that look for os.system, from their own issue trackers
    "os.system": bypass("os system", TOUCH),
    "nt.system": bypass("nt system", TOUCH),
    "os.popen": bypass("os popen", TOUCH),
    "os.execvp": bypass("os execvp", "touch", ["touch", "canary"]),
    "os.spawnlp": bypass("os spawnvp", 0, "touch", ["touch", "canary"]),
    "posix_spawnp": bypass("posix posix_spawnp", "touch", ["touch", "canary"], {}),
    "subprocess.Popen": bypass("subprocess Popen", ["touch", "canary"]),
    "subprocess.getoutput": bypass("subprocess getoutput", TOUCH),
    "builtins.exec": bypass("builtins exec", WRITE),
    "builtins.eval": bypass("builtins eval", WRITE),
    "builtins.compile": bypass("builtins exec", call("builtins compile", WRITE, "x", "exec")),
    "builtins.open": bypass("builtins open", "canary", "w"),
    "io.open": bypass("io open", "canary", "w"),
    "_io.FileIO": bypass("_io FileIO", "canary", "w"),
    "pathlib.Path.touch": bypass("pathlib Path.touch", call("pathlib Path", "canary")),
    "builtins.__import__": bypass("builtins getattr", call("builtins __import__", "os"), "system", then=(TOUCH,)),
    "importlib": bypass("builtins getattr", call("importlib import_module", "os"), "system", then=(TOUCH,)),
    "pkgutil.resolve_name": bypass("pkgutil resolve_name", "os:system", then=(TOUCH,)),
    "getattr chain": bypass("builtins getattr", glob("os path"), "os"),
    "operator.attrgetter": bypass("operator attrgetter", "system", then=(glob("os path"),)),
    "operator.methodcaller": bypass(
        "operator methodcaller", "system", TOUCH, then=(call("importlib import_module", "os"),)
    ),
    "functools.partial": bypass("functools partial", glob(SYSTEM), TOUCH, then=()),
    "functools.reduce": bypass("functools reduce", glob("builtins getattr"), [1, 2]),
    "builtins.map": bypass("builtins list", call("builtins map", glob(SYSTEM), [TOUCH])),
    "runpy.run_path": bypass("runpy run_path", "hostile.py"),
    "runpy._run_code": bypass("runpy _run_code", WRITE, {}),
    "timeit.timeit": bypass("timeit timeit", WRITE, "pass"),
    "pdb.run": bypass("pdb run", WRITE),
    "bdb.Bdb.run": bypass("bdb Bdb.run", call("bdb Bdb"), WRITE),
    "cProfile.run": bypass("cProfile run", WRITE),
    "profile.run": bypass("profile run", WRITE),
    "trace.Trace.run": bypass("trace Trace.run", call("trace Trace"), WRITE),
    "doctest.debug_script": bypass("doctest debug_script", WRITE),
    "code.InteractiveInterpreter": bypass(
        "code InteractiveInterpreter.runcode", call("code InteractiveInterpreter"), WRITE
    ),
    "idlelib": bypass("idlelib.run Executive.runcode", WRITE),
    "pip.main": bypass("pip main", ["download", "x"]),
    "ensurepip": bypass("ensurepip _run_pip", ["download", "x"]),
    "venv.create": bypass("venv create", "canary"),
    "asyncio subprocess": bypass("asyncio run", call("asyncio create_subprocess_shell", TOUCH)),
    "asyncio unix": bypass("asyncio.unix_events _UnixSubprocessTransport._start", None, TOUCH),
    "multiprocessing": bypass("multiprocessing.util spawnv_passfds", b"cos\npath\n", [], []),
    "pty.spawn": bypass("pty spawn", ["touch", "canary"]),
    "ctypes": bypass("ctypes CDLL", "libhostile.so"),
    "marshal": bypass("marshal loads", b"U\x04abcd"),
    "types.CodeType": bypass("types FunctionType", call("marshal loads", b"U\x04abcd"), {}),
    "copyreg.add_extension": bypass("copyreg add_extension", "os", "system", 7),
    "copyreg.__newobj__": bypass("copyreg __newobj__", glob("subprocess Popen"), ["touch", "canary"]),
    "pickle.loads": bypass("pickle loads", call("_codecs encode", "cposix\nsystem\n(Vtouch canary\ntR.", "latin1")),
    "shelve": bypass("shelve open", "canary"),
    "logging.config": bypass("logging.config listen", 9999),
    "logging.FileHandler": bypass("logging FileHandler", "canary"),
    "urllib": bypass("urllib.request urlretrieve", "file:///etc/hostname", "canary"),
    "webbrowser": bypass("webbrowser open", "http://localhost/"),
    "socket": bypass("socket create_connection", ("localhost", 9)),
    "shutil": bypass("shutil copyfile", "/etc/hostname", "canary"),
    "os.putenv": bypass("os putenv", "CANARY", "1"),
    "os.kill": bypass("os kill", 1, 0),
    "sys.exit": bypass("sys exit", 0),
    "os._exit": bypass("os _exit", 0),
    "lib2to3": bypass("lib2to3.pgen2.grammar Grammar.loads", call("lib2to3.pgen2.grammar Grammar"), b"U\x04abcd"),
    "numpy f2py crackfortran": bypass("numpy.f2py.crackfortran getlincoef", WRITE, {"x": 1}),
    "numpy capi_maps": bypass("numpy.f2py.capi_maps getinit", WRITE, {}),
    "numpy testing": bypass("numpy.testing._private.utils runstring", WRITE, {}),
    "numpy.load": bypass("numpy load", "hostile.npy", None, True),
    "torch.load": bypass("torch.serialization load", "hostile.pt"),
    "torch.jit.load": bypass("torch.jit load", "hostile.pt"),
    "torch.hub": bypass("torch.hub load", ".", "hostile", "local"),
    "torch.storage": bypass("torch.storage _load_from_bytes", call("_codecs encode", "x", "latin1")),
    "torch._inductor": bypass("torch._inductor.codecache compile_file", WRITE, "canary", []),
    "torch._dynamo": bypass("torch._dynamo.guards GuardBuilder.get", WRITE),
    "torch.utils": bypass(
        "torch.utils._config_module ConfigModule.load_config", glob("torch._dynamo config"), b"U\x04abcd"
    ),
    "torch.utils.bottleneck": bypass("torch.utils.bottleneck.__main__ run_cprofile", WRITE, {}),
    "torch.utils.collect_env": bypass("torch.utils.collect_env run", TOUCH),
    "torch.fx": bypass("torch.fx.graph_module _forward_from_src", WRITE, {}),
    "torch.distributed": bypass("torch.distributed.distributed_c10d _tensor_to_object", b"U\x04abcd", 4, None),
    "torch.package": bypass("torch.package PackageImporter", "hostile.pt"),
    "torch._utils": bypass("torch._utils _import_dotted_name", "os.system", then=(TOUCH,)),
    "torch.from_file": bypass("torch from_file", "canary", True, 4),
    "torch.save": bypass("torch.serialization save", {}, "canary"),
    "UntypedStorage.from_file": bypass("torch UntypedStorage.from_file", "canary", True, 4),
    "setattr on torch": bypass("builtins setattr", glob("torch.serialization load"), "x", 1),
    "sympy": bypass("sympy sympify", WRITE),
    "joblib": bypass("joblib load", "hostile.joblib"),
    "dill": bypass("dill._dill _create_function", b"U\x04abcd"),
    "cloudpickle": bypass("cloudpickle.cloudpickle _make_function", b"U\x04abcd", {}),
}


def in_zip(payload: bytes, path: Path, top: str = "archive", extra: tuple[tuple[str, bytes], ...] = ()) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{top}/data.pkl", payload)
        for name, data in (("byteorder", b"little"), ("data/0", bytes(16)), ("version", b"3\n"), *extra):
            archive.writestr(f"{top}/{name}", data)


def in_stream(payload: bytes, path: Path) -> None:
    """Where the older format of torch.save has its object."""
    head = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(head) + payload + pickle.dumps([], 2))


def bare(payload: bytes, path: Path) -> None:
    path.write_bytes(payload)


CONTAINERS: dict[str, Callable[[bytes, Path], None]] = {"bare": bare, "zip": in_zip, "stream": in_stream}


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Inside, nothing may be executed: neither files nor the environment nor the process's modules may change."""
    before, environment, modules = sorted(folder.iterdir()), dict(os.environ), set(sys.modules)

    def hung(*_: Any) -> None:
        raise AssertionError("reading hangs")

    previous = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert sorted(folder.iterdir()) == before
    assert dict(os.environ) == environment
    assert not {"pip", "pty", "pdb", "idlelib", "joblib", "dill"} & (set(sys.modules) - modules)


def refused(path: Path, folder: Path) -> TeacherError:
    with guarded(folder), pytest.raises(TeacherError) as caught:
        read(path)
    error = caught.value
    assert error.exit_code == 3 and error.what and error.fix, error
    assert "Traceback" not in error.why
    return error


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("family", FAMILIES | ONLY_NAMED)
def test_opcodes_that_call(family: str, container: str, folder: Path) -> None:
    payload = (FAMILIES | ONLY_NAMED)[family]
    CONTAINERS[container](payload, folder / "teacher.pt")
    error = refused(folder / "teacher.pt", folder)
    if family in FAMILIES and family != "behind STOP":
        assert error.code == "E0312" and error.why, error


@pytest.mark.parametrize("index", range(len(BYPASSES)))
def test_ways_past_scanners(index: int, folder: Path) -> None:
    name, payload = list(BYPASSES.items())[index]
    list(CONTAINERS.values())[index % 3](payload, folder / "weights")
    error = refused(folder / "weights", folder)
    assert error.code == "E0312", (name, error.what, error.why)


def test_these_pickles_do_harm_where_they_are_unpickled(folder: Path) -> None:
    """The control: with Python's own unpickler the canary is created, so that its absence above means something."""
    harmless = {"behind STOP", "python 2's module", "obj", "newobj_ex"}
    chosen = {n: p for n, p in FAMILIES.items() if n not in harmless}
    chosen |= {
        n: BYPASSES[n] for n in ("pkgutil.resolve_name", "functools.partial", "builtins.__import__", "builtins.compile")
    }
    (folder / "payloads.json").write_text(json.dumps({n: p.decode("latin1") for n, p in chosen.items()}))
    script = (
        "import json, os, pickle\n"
        "for name, payload in json.load(open('payloads.json')).items():\n"
        "    try: pickle.loads(payload.encode('latin1'))\n"
        "    except Exception as error: print(name, repr(error))\n"
        "    if not os.path.exists('canary'): print('no canary:', name); continue\n"
        "    os.remove('canary')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "no canary" not in done.stdout, done.stdout


def good(path: Path) -> bytes:
    torch.save({"state_dict": {"a.weight": torch.arange(64.0), "b": torch.ones(300)}}, path)
    return path.read_bytes()


def good_stream(path: Path) -> bytes:
    torch.save({"a": torch.arange(64.0)}, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["zip", "stream", "safetensors"])
def test_cut_at_any_place(kind: str, folder: Path) -> None:
    path = folder / "cut.pt"
    if kind == "safetensors":
        save_file({"a": torch.ones(100)}, path)
        data = path.read_bytes()
    else:
        data = good(path) if kind == "zip" else good_stream(path)
    count = 50 if kind == "zip" else 15
    for step in range(count):
        path.write_bytes(data[: 1 + step * (len(data) - 2) // (count - 1)])
        assert refused(path, folder).code in ("E0311", "E0335")


def flipped(path: Path) -> None:
    data = bytearray(good(path))
    place = data.index(torch.arange(64.0).numpy().tobytes())
    data[place + 100] ^= 1
    path.write_bytes(data)


def renamed(name: str) -> Callable[[Path], None]:
    """An entry whose name, in the directory and before its data, is another one."""

    def write(path: Path) -> None:
        in_zip(pickle.dumps({}, 2), path, extra=(("data/" + "x" * (len(name) - 13), b"1"),))
        old = ("archive/data/" + "x" * (len(name) - 13)).encode()
        data = path.read_bytes()
        assert len(old) == len(name) and data.count(old) == 2
        path.write_bytes(data.replace(old, name.encode()))

    return write


def twice(path: Path) -> None:
    in_zip(pickle.dumps({"w": 1}, 2), path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", whole(call(SYSTEM, TOUCH)))


def nameless(path: Path) -> None:
    """Found by fuzzing: zipfile itself falls over an entry whose name is empty."""
    in_zip(pickle.dumps({}, 2), path)
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = ""
        archive.writestr(entry, b"1")


def linked(path: Path) -> None:
    in_zip(pickle.dumps({}, 2), path)
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("archive/data/1")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(50_000_000))


def many_small_bombs(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        for index in range(40):
            archive.writestr(f"archive/data/{index}", bytes(1_000_000))


def lzma_entry(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))


def zip_in_zip(path: Path) -> None:
    inner = io.BytesIO()
    torch.save({"w": torch.ones(3)}, inner)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.pt", inner.getvalue())


def zip_as_pickle(path: Path) -> None:
    inner = path.with_name("inner")
    in_zip(whole(call(SYSTEM, TOUCH)), inner)
    in_zip(inner.read_bytes(), path)
    inner.unlink()


def other_entry(path: Path) -> None:
    """picklescan's old blind spot: the pickle under a name that no scanner looks at."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/model.txt", whole(call(SYSTEM, TOUCH)))
        archive.writestr("archive/version", "3\n")


def wrong_checksum(path: Path) -> None:
    in_zip(whole(call(SYSTEM, TOUCH)), path)
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 16 : directory + 20] = b"\xde\xad\xbe\xef"
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    in_zip(whole(call(SYSTEM, TOUCH)), path)
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            payload = whole(call(SYSTEM, TOUCH))
            entry.size = len(payload)
            archive.addfile(entry, io.BytesIO(payload))


def tensor(
    numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], kind: str = "FloatStorage"
) -> bytes:
    storage = b"(" + text("storage") + glob(f"torch {kind}") + text("0") + text("cpu") + plain(numel) + b"tQ"
    hooks = call("collections OrderedDict")
    return call("torch._utils _rebuild_tensor_v2", storage, offset, size, stride, False, hooks)


def holding(opcodes: bytes, name: str = "w") -> Callable[[Path], None]:
    return lambda path: in_zip(whole(b"}" + text(name) + opcodes + b"s"), path)


def nested(opening: bytes, closing: bytes, depth: int, core: bytes = b"N") -> bytes:
    return opening * depth + core + closing * depth


def script(tree: bytes) -> Callable[[Path], None]:
    return lambda path: in_zip(whole(tree), path, extra=(("constants.pkl", whole(b")")), ("code/x.py", b"import os")))


def script_module(*items: bytes) -> bytes:
    return glob("__torch__ Net") + b")\x81}(" + b"".join(items) + b"ub"


def old_script(**tensor_def: Any) -> Callable[[Path], None]:
    table = [{"dims": ["2"], "strides": ["1"], "dataType": "FLOAT", "data": {"key": "tensors/0"}, **tensor_def}]
    module = {"name": "m", "parameters": [{"name": "w", "tensorId": "0"}]}

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/model.json", json.dumps({"mainModule": module, "tensors": table}))
            archive.writestr("m/tensors/0", bytes(8))

    return write


def safetensors_with(header: Any, body: bytes = bytes(16)) -> Callable[[Path], None]:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda path: bare(len(raw).to_bytes(8, "little") + raw + body, path)


def f32(shape: list[int], ends: list[int]) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": shape, "data_offsets": ends}}


DOUBLING = b"N" + b"q\x01h\x01\x86" * 60  # a pair of what was before, 60 times: 2**60 values, and as a key 2**60 hashes
BROKEN: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda p: bare(b"", p),
    "one byte": lambda p: bare(b"\x80", p),
    "zeros": lambda p: bare(bytes(4096), p),
    "ones": lambda p: bare(b"\xff" * 4096, p),
    "random bytes": lambda p: bare(bytes((i * 7919 + i // 3) % 256 for i in range(9999)), p),
    "random bytes after PROTO": lambda p: bare(b"\x80\x02" + bytes((i * 7919) % 256 for i in range(9999)), p),
    "random bytes after PK": lambda p: bare(b"PK\x03\x04" + bytes((i * 7919) % 256 for i in range(9999)), p),
    "empty zip": lambda p: zipfile.ZipFile(p, "w").close(),
    "text": lambda p: bare(b"weights\n" * 100, p),
    "web page": lambda p: bare(b"<!DOCTYPE html><html>404</html>", p),
    "git lfs pointer": lambda p: bare(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", p),
    "gzip": lambda p: bare(b"\x1f\x8b\x08" + bytes(100), p),
    "hdf5": lambda p: bare(b"\x89HDF\r\n\x1a\n" + bytes(100), p),
    "program": lambda p: bare(b"\x7fELF" + bytes(100), p),
    "tar of torch 0.1.9": tarred,
    "directory": lambda p: p.mkdir(),
    "pipe": os.mkfifo,
    "link to /dev/zero": lambda p: p.symlink_to("/dev/zero"),
    "link to itself": lambda p: p.symlink_to(p.name),
    "link to nothing": lambda p: p.symlink_to("nowhere"),
    "flipped bit in the weights": flipped,
    "entry above": renamed("archive/../../etc/x"),
    "absolute entry": renamed("/archive/data/xxxx"),
    "backslash entry": renamed("archive\\data\\xxxx"),
    "zero byte in an entry's name": renamed("archive/data/xx\0xxxx"),
    "entry outside of the folder": renamed("elsewhere/data/xxxx"),
    "entry twice": twice,
    "entry that is a link": linked,
    "entry without a name": nameless,
    "zip bomb": bomb,
    "zip of many small bombs": many_small_bombs,
    "lzma": lzma_entry,
    "zip in zip": zip_in_zip,
    "zip as data.pkl": zip_as_pickle,
    "pickle in another entry": other_entry,
    "wrong checksum": wrong_checksum,
    "encrypted": encrypted,
    "data.pkl empty": lambda p: in_zip(b"", p),
    "data.pkl of protocol 9": lambda p: in_zip(b"\x80\x09}.", p),
    "unknown opcode": lambda p: in_zip(b"\x80\x02\xff.", p),
    "storage that is missing": holding(tensor(4, 0, (4,), (1,)).replace(text("0"), text("7"))),
    "storage with a path": holding(tensor(4, 0, (4,), (1,)).replace(text("0"), text("../../../../etc/passwd"))),
    "storage larger than the file": holding(tensor(10**12, 0, (10**12,), (1,))),
    "storage a little larger": holding(tensor(500, 0, (500,), (1,))),
    "storage of negative size": holding(tensor(-4, 0, (4,), (1,))),
    "storage of a size beyond 64 bits": holding(tensor(2**70, 0, (4,), (1,))),
    "storage of another type": holding(tensor(4, 0, (4,), (1,), "ComplexDoubleStorage")),
    "offset behind the storage": holding(tensor(4, 3, (4,), (1,))),
    "negative offset": holding(tensor(4, -1, (2,), (1,))),
    "negative stride": holding(tensor(4, 0, (4,), (-1,))),
    "negative size": holding(tensor(4, 0, (-4,), (1,))),
    "stride out of the storage": holding(tensor(4, 0, (2, 2), (100, 1))),
    "stride that overflows": holding(tensor(4, 0, (2, 2), (2**62, 1))),
    "one number as 4 TB": holding(tensor(4, 0, (2**40,), (0,))),
    "one number as 2**80": holding(tensor(4, 0, (2**40, 2**40), (0, 0))),
    "bytearray of 100 GB": holding(call("builtins bytearray", 10**11)),
    "tensor of 100 GB": holding(call("torch FloatTensor", 10**11)),
    "size of text": holding(call("torch._utils _rebuild_tensor_v2", "a", "b", "c", "d", "e", "f")),
    "deep lists": holding(nested(b"](", b"e", 30_000)),
    "deep tuples": holding(nested(b"", b"\x85", 200_000)),
    "deep dictionaries": holding(nested(b"}" + text("a"), b"s", 20_000)),
    "list in itself": holding(b"]q\x01h\x01a"),
    "doubling tuples": holding(DOUBLING),
    "doubling tuples as a key": lambda p: in_zip(whole(b"}" + DOUBLING + b"Ns"), p),
    "doubling lists": holding(b"]" + b"q\x01]h\x01ah\x01a" * 60),
    "doubling dictionaries": holding(b"}" + (b"q\x01}" + text("a") + b"h\x01s" + text("b") + b"h\x01s") * 60),
    "memo of large numbers": holding(b"N" + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - i) for i in range(1000))),
    "mark without end": lambda p: in_zip(whole(b"(" * 10_000), p),
    "pops without values": lambda p: in_zip(whole(b"0" * 100), p),
    "text longer than the file": lambda p: in_zip(b"\x80\x02X\xff\xff\xff\x7fabc.", p),
    "number of 2 GB": lambda p: in_zip(b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", p),
    "numpy object scalar": holding(call("numpy._core.multiarray scalar", call("numpy dtype", "O8"), b"U\x04abcd")),
    "numpy dtype with a state": holding(
        call("numpy dtype", "V8") + plain((3, "|", None, None, None, 2**40, 1, 0)) + b"b"
    ),
    "namespace with a class": holding(
        glob("argparse Namespace") + b")\x81}" + text("__class__") + glob(SYSTEM) + b"sb"
    ),
    "namespace with another state": holding(glob("argparse Namespace") + b")\x81" + text("x") + b"b"),
    "torch.device of a size": holding(call("torch device", "x" * 1000)),
    "codec bomb": holding(call("_codecs encode", "a" * 1000, "idna")),
    "no weights": lambda p: torch.save({"epoch": 1}, p),
    "module": lambda p: torch.save(torch.nn.Linear(2, 2), p),
    "module in the older format": lambda p: torch.save(torch.nn.ReLU(), p, _use_new_zipfile_serialization=False),
    "numpy arrays, pickled": lambda p: bare(pickle.dumps({"w": torch.ones(2).numpy()}), p),
    "weights, pickled without torch.save": lambda p: bare(pickle.dumps({"w": torch.ones(2)}), p),
    "script: not a module": script(b"}"),
    "script: unknown call": script(script_module(text("w") + call(SYSTEM, TOUCH))),
    "script: offset outside": script(script_module(text("w") + tensor(4, 3, (4,), (1,)))),
    "script: negative stride": script(script_module(text("w") + tensor(4, 0, (4,), (-1,)))),
    "script: size of 2**80": script(script_module(text("w") + tensor(4, 0, (2**40, 2**40), (0, 0)))),
    "script: storage missing": script(
        script_module(text("w") + tensor(4, 0, (4,), (1,)).replace(text("0"), text("8")))
    ),
    "script: storage with a path": script(
        script_module(text("w") + tensor(4, 0, (4,), (1,)).replace(text("0"), text("../x")))
    ),
    "script: module in itself": script(glob("__torch__ N") + b")\x81q\x01}" + text("a") + b"h\x01sb"),
    "script: modules nested deep": script(nested(glob("__torch__ N") + b")\x81}" + text("a"), b"sb", 3000)),
    "script: big-endian": lambda p: in_zip(whole(b")"), p, extra=(("constants.pkl", b"x"), ("model.json", b"{}"))),
    "script: pickle cut": lambda p: in_zip(b"\x80\x02c", p, extra=(("constants.pkl", b"x"),)),
    "old script: tensor outside": old_script(dims=["3"]),
    "old script: negative offset": old_script(offset="-1"),
    "old script: path": old_script(data={"key": "../../etc/passwd"}),
    "old script: unknown type": old_script(dataType="STRING"),
    "old script: words for sizes": old_script(dims=["many"]),
    "old script: no JSON": lambda p: zipped_json(p, b"{"),
    "old script: a list": lambda p: zipped_json(p, b"[]"),
    "old script: deep JSON": lambda p: zipped_json(p, b"[" * 100_000),
    "safetensors: outside": safetensors_with(f32([8], [0, 32])),
    "safetensors: wrong size": safetensors_with(f32([3], [0, 16])),
    "safetensors: overflow": safetensors_with(f32([2**62, 4], [0, 16])),
    "safetensors: negative": safetensors_with(f32([-4], [0, 16])),
    "safetensors: hole": safetensors_with(f32([2], [8, 16])),
    "safetensors: no JSON": safetensors_with(b"{{{{{{{{"),
    "safetensors: deep JSON": safetensors_with(b'{"a":' * 20_000),
    "safetensors: nothing": safetensors_with({}, b""),
    "safetensors: length beyond the file": lambda p: bare(b"\xff\xff\xff\xff\xff\xff\x00\x00{}", p),
    "own file: no facts": lambda p: torch.save({"format": "edgekd-teacher-1", "state": {}}, p),
    "own file: code for facts": lambda p: torch.save({"format": "edgekd-teacher-1", "facts": WRITE, "state": {}}, p),
    "own file: deep facts": lambda p: torch.save({"format": "edgekd-teacher-1", "facts": "[" * 99_999, "state": {}}, p),
    "own file: no weights": lambda p: torch.save({"format": "edgekd-teacher-1", "facts": "{}", "state": 3}, p),
}


def zipped_json(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/model.json", data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", BROKEN)
def test_broken_and_tricked_files(case: str, folder: Path) -> None:
    BROKEN[case](folder / "teacher.onnx")  # the name says nothing: what it is, its bytes say
    refused(folder / "teacher.onnx", folder)


@pytest.mark.parametrize("extension", ["pt", "pth", "bin", "onnx", "pt2", "safetensors", "npz", "json", "zip", ""])
def test_extensions_do_not_count(extension: str, folder: Path) -> None:
    path = folder / f"weights.{extension}"
    in_zip(whole(call(SYSTEM, TOUCH)), path)
    assert refused(path, folder).code == "E0312"
    torch.save({"w": torch.ones(2)}, path)
    assert read(path).format == "checkpoint"


def test_unreadable_file(folder: Path) -> None:
    for name in ("missing.pt", "a\0b"):
        assert refused(Path(name), folder).code == "E0310"


def attempts() -> dict[str, Callable[[], Any]]:
    """What code that had taken the child over would try."""
    return {
        "write": lambda: Path("canary").write_text("x"),
        "truncate": lambda: os.truncate("precious", 0),
        "truncate by opening": lambda: open("precious", "w"),
        "remove": lambda: Path("precious").unlink(),
        "rename": lambda: Path("precious").rename("canary"),
        "folder": lambda: Path("canary").mkdir(),
        "link": lambda: Path("canary").symlink_to("precious"),
        "program": lambda: os.execv(sys.executable, [sys.executable, "-c", WRITE]),
        "spawn": lambda: subprocess.run(["touch", "canary"], check=True),
        "fork": os.fork,
        "signal": lambda: os.kill(os.getppid(), 0),
        "socket": lambda: socket.create_connection(("127.0.0.1", 9)),
        "many files": lambda: [open("precious") for _ in range(100)],
        "memory": lambda: bytearray(10**9),
        "standard output": lambda: os.write(1, b"") or open("/dev/fd/1", "w"),
    }


@pytest.mark.skipif(platform.machine() not in walls.CALLS or sys.platform != "linux", reason="Linux on x86-64 or arm64")
def test_walls_hold_even_for_code_of_ours(folder: Path) -> None:
    (folder / "precious").write_text("here")

    def work() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        failed = []
        for name, attempt in attempts().items():
            try:
                attempt()
            except (OSError, MemoryError):
                failed.append(name)
        return {"failed": failed, "read": Path("precious").read_text()}, {}

    with open("precious", "rb") as file, guarded(folder):
        facts, _ = isolated(work, file, 4, "precious")
    assert facts["failed"] == list(attempts()) and facts["read"] == "here"
    assert (folder / "precious").read_text() == "here"


@pytest.mark.parametrize(
    ("work", "code", "words"),
    [
        (lambda: os._exit(3), "E0311", "early"),
        (os.abort, "E0311", "SIGABRT"),
        (lambda: any(False for _ in iter(int, 1)), "E0314", "ended"),
        (lambda: 1 / 0, "E0311", "ZeroDivisionError"),
        (lambda: ({"text": "x" * 10**8}, {}), "E0314", "memory"),
        (lambda: ({"format": object()}, {}), "E0311", "TypeError"),
        (lambda: ({}, {"w": torch.ones(1).expand(10**9)}), "E0335", "repeated"),
    ],
)
def test_child_that_does_not_answer(work: Any, code: str, words: str, folder: Path) -> None:
    (folder / "x").write_bytes(b"1234")
    with open("x", "rb") as file, guarded(folder), pytest.raises(TeacherError) as caught:
        isolated(work, file, 4, "x")
    assert caught.value.code == code and words in caught.value.what + caught.value.why


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_strace_sees_no_program_and_no_write(folder: Path) -> None:
    """The kernel's view of reading hostile files: after the mark no execve, nothing opened to be written, no socket."""
    hostile = [*list(FAMILIES.values())[:12], *list(BYPASSES.values())[::8]]
    (folder / "hostile").mkdir()
    for index, payload in enumerate(hostile):
        list(CONTAINERS.values())[index % 3](payload, folder / "hostile" / f"{index}.pt")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from edgekd.errors import TeacherError\n"
        "from edgekd.teacher.reading.files import read\n"
        "count = 0\n"
        "try: open('/the-mark')\n"
        "except FileNotFoundError: pass\n"
        "for path in sorted(Path('hostile').iterdir()):\n"
        "    try: read(path)\n"
        "    except TeacherError: count += 1\n"
        "print(count)\n"
    )
    watched = "trace=execve,execveat,open,openat,creat,socket,connect,unlink,rename,mkdir"
    command = ["strace", "-f", "--seccomp-bpf", "-o", "log", "-e", watched, sys.executable, "-c", program, str(ROOT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("this system does not let strace attach")
    assert done.stdout.split() == [str(len(hostile))], done.stderr[-2000:]
    lines = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
    start = next(index for index, line in enumerate(lines) if "/the-mark" in line)
    assert any(" execve(" in line for line in lines[:start])  # it sees what it looks for: Python's own start
    forbidden = ("exec", "socket(", "connect(", "unlink(", "rename(", "mkdir(", "creat(")
    for line in lines[start:]:
        writes = "O_WRONLY" in line or "O_RDWR" in line or "O_CREAT" in line
        assert not (writes and '"/dev/null"' not in line), line
        assert not any(f" {name}" in line for name in forbidden), line
    assert not (folder / "canary").exists()


def test_seeds_of_fuzzing_are_refused_or_read() -> None:
    """Inputs that fuzzing found to reach different code: none may end in anything but a result or a TeacherError."""
    seeds = [base64.b64decode(json.loads(line)) for line in SEEDS.read_text(encoding="utf-8").splitlines()]
    outcomes = {taken_apart(data) for data in [*starts(), *seeds]}
    assert {"checkpoint", "torchscript", "safetensors", "edgekd", "E0311", "E0315"} <= outcomes


def test_seeds_of_fuzzed_graphs_are_refused_or_read() -> None:
    seeds = [base64.b64decode(json.loads(line)) for line in fuzz_onnx.SEEDS.read_text(encoding="utf-8").splitlines()]
    assert [fuzz_onnx.outcome(data) for data in fuzz_onnx.starts()] == ["onnx"] * 3
    assert {"onnx", "E0326", "E0327"} <= {fuzz_onnx.outcome(data) for data in seeds}


UNSAFE = {"eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "torch.export.load"}


@pytest.mark.parametrize("path", [p for d in ("edgekd", "targets") for p in sorted((ROOT / d).rglob("*.py"))], ids=str)
def test_source_unpickles_and_evaluates_nothing(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in UNSAFE, f"{path}:{node.lineno}: {name}"
        given = {k.arg: k.value for k in node.keywords}
        loose = given.get("weights_only", given.get("allow_pickle"))
        if name.endswith("torch.load"):
            assert isinstance(loose, ast.Constant) and loose.value is True, f"{path}:{node.lineno}"
        if "allow_pickle" in given:
            assert isinstance(loose, ast.Constant) and loose.value is False, f"{path}:{node.lineno}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "torch.jit", "torch.export"):
            assert not {"load", "loads", "Unpickler"} & {alias.name for alias in node.names}, path
