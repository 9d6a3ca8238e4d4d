"""The user's own code as an architecture: --arch path/to/file.py:factory. The one place where code of others is run."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path

from torch import nn

from edgekd.errors import TeacherError
from edgekd.files import nearest


def is_script(arch: str) -> bool:
    """Whether an architecture is written as file.py:factory."""
    return ".py:" in arch or arch.endswith(".py")


def run(arch: str, classes: int) -> nn.Module:
    """The network that factory() gives, or factory(num_classes=...) where it takes that.

    Raises TeacherError where there is no such file or factory, where it raises, and where it gives no nn.Module.
    """
    file, _, factory = arch.rpartition(":") if ".py:" in arch else (arch, "", "")
    path = Path(file)
    if not path.is_file():
        raise TeacherError(
            f"--arch {arch}: {file} is not there", code="E0394", fix="write --arch path/to/file.py:factory"
        )
    module_name = f"edgekd_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickles of that file look it up
    sys.path.insert(0, str(path.resolve().parent))  # its own imports
    try:
        spec.loader.exec_module(module)
        made = getattr(module, factory, None)
        if not callable(made):
            defined = [
                n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module_name
            ]
            raise TeacherError(
                f"--arch {arch}: {path.name} defines no {factory!r}.{nearest(factory, defined)}",
                code="E0394",
                why=f"it defines: {', '.join(defined) or 'nothing that can be called'}",
                fix="name a function or class that gives the network when called without arguments",
            )
        takes = _takes_classes(made)
        network = made(num_classes=classes) if takes else made()
    except TeacherError:
        raise
    except Exception as error:  # the user's code may raise anything; it is told as it is
        raise _failed(arch, path, error) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    if not isinstance(network, nn.Module):
        raise TeacherError(
            f"--arch {arch}: {factory}() gave a {type(network).__name__}, not an nn.Module",
            code="E0395",
            fix="return the network",
        )
    return network.eval()


def _takes_classes(made: object) -> bool:
    try:
        return callable(made) and "num_classes" in inspect.signature(made).parameters
    except ValueError:  # built-in callables have no signature
        return False


def _failed(arch: str, path: Path, error: Exception) -> TeacherError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == path.name]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    text = frames[-1].line if frames else ""
    return TeacherError(
        f"--arch {arch}: {path.name} raised {type(error).__name__}",
        code="E0395",
        why=f"{error}" + (f" (line {line}{': ' + text if text else ''})" if line else ""),
        fix="mend the file; its factory must run without arguments, or with num_classes alone",
    )
