"""The few CUDA calls that TensorRT needs around it, through ctypes. Pointers and handles are plain integers."""

import ctypes
import glob
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any, Dict, List, Optional, Tuple

from .setting import EXIT_ENVIRONMENT, EXIT_MEASUREMENT, Refused

NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2", "libcudart.so")
FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda*/targets/*/lib", "/usr/lib/aarch64-linux-gnu")
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
NON_BLOCKING = 1  # cudaStreamNonBlocking: not ordered with the default stream, so that it can be captured
THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal: other threads may go on calling CUDA
MULTIPROCESSORS, CAPABILITY_MAJOR, CAPABILITY_MINOR = 16, 75, 76  # CUdevice_attribute
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation

# what each function takes; all give an error number, 0 for success (CUDA Runtime API reference)
ARGUMENTS: Dict[str, Tuple[Any, ...]] = {
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaSetDevice": (c_int,),
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMallocHost": (POINTER(c_void_p), c_size_t),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaEventCreate": (POINTER(c_void_p),),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
}


class Cuda:
    """The first CUDA device, through a loaded libcudart, and libcuda for what the device is."""

    def __init__(self, library: Any, driver: Any) -> None:
        self.library, self.driver = library, driver
        if isinstance(library, ctypes.CDLL):
            for name, arguments in ARGUMENTS.items():
                getattr(library, name).argtypes = arguments
            library.cudaGetErrorString.argtypes, library.cudaGetErrorString.restype = (c_int,), c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Calls one function; an error number is refused with its text."""
        number = getattr(self.library, name)(*arguments)
        if number:
            text = self.library.cudaGetErrorString(number)
            text = text.decode("utf-8", "replace") if isinstance(text, bytes) else "no text"
            if number == OUT_OF_MEMORY:
                text += "; the GPU's memory is full: stop what else runs there, or take a smaller batch"
            raise Refused("%s: CUDA error %d, %s" % (name, number, text), EXIT_MEASUREMENT)

    def number(self, name: str, *arguments: Any) -> int:
        """What a function writes through its first argument."""
        found = c_int()
        self.call(name, byref(found), *arguments)
        return found.value

    def handle(self, name: str, *arguments: Any) -> int:
        """The pointer that a function writes through its first argument."""
        found = c_void_p()
        self.call(name, byref(found), *arguments)
        return found.value or 0

    def device(self) -> Dict[str, Any]:
        """What device_of says of device 0, which becomes the current one."""
        self.call("cudaSetDevice", 0)
        return device_of(self.driver)

    def versions(self) -> Dict[str, str]:
        """Of the runtime library and of the driver, "12.6"."""
        found = {"cuda": self.number("cudaRuntimeGetVersion"), "driver_cuda": self.number("cudaDriverGetVersion")}
        return {name: "%d.%d" % (v // 1000, v % 1000 // 10) for name, v in found.items()}

    def free_mb(self) -> float:
        """Free memory of the GPU, 10**6 bytes. A Jetson's is the system's."""
        free, total = c_size_t(), c_size_t()
        self.call("cudaMemGetInfo", byref(free), byref(total))
        return free.value / 1e6

    def malloc(self, size: int) -> int:
        return self.handle("cudaMalloc", max(1, size))

    def malloc_host(self, size: int) -> int:
        """Page-locked memory of the host, from which copies need no intermediate one."""
        return self.handle("cudaMallocHost", max(1, size))

    def copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        self.call("cudaMemcpyAsync", to, source, size, kind, stream)

    def stream(self) -> int:
        return self.handle("cudaStreamCreateWithFlags", NON_BLOCKING)

    def wait(self, stream: int) -> None:
        self.call("cudaStreamSynchronize", stream)

    def event(self) -> int:
        return self.handle("cudaEventCreate")

    def record(self, event: int, stream: int) -> None:
        self.call("cudaEventRecord", event, stream)

    def ms_between(self, first: int, second: int) -> float:
        found = c_float()
        self.call("cudaEventElapsedTime", byref(found), first, second)
        return found.value

    def begin_capture(self, stream: int) -> None:
        self.call("cudaStreamBeginCapture", stream, THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """The executable graph of what was launched since begin_capture."""
        captured = c_void_p()
        self.call("cudaStreamEndCapture", stream, byref(captured))
        graph = captured.value or 0
        if hasattr(self.library, "cudaGraphInstantiateWithFlags"):  # CUDA 11.4 and later
            return self.handle("cudaGraphInstantiateWithFlags", c_void_p(graph), c_ulonglong(0))
        return self.handle("cudaGraphInstantiate", c_void_p(graph), None, None, c_size_t(0))

    def launch(self, graph: int, stream: int) -> None:
        self.call("cudaGraphLaunch", graph, stream)


def candidates() -> List[str]:
    """Where libcudart may lie: by its names for the loader, then by path, then in NVIDIA's Python packages."""
    found = list(NAMES)
    for folder in FOLDERS:
        found += sorted(glob.glob(os.path.join(folder, "libcudart.so*")), reverse=True)
    for folder in sys.path:
        found += sorted(glob.glob(os.path.join(folder, "nvidia", "*", "lib", "libcudart.so*")), reverse=True)
    return found


def opened(names: Optional[List[str]] = None) -> Cuda:
    """The first libcudart that finds a GPU. Refused with the reason of each where none does."""
    reasons, gpu = [], driver()
    for name in candidates() if names is None else names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        cuda = Cuda(library, gpu)
        try:
            if cuda.number("cudaGetDeviceCount"):
                return cuda
            reasons.append("%s: no device" % name)
        except Refused as error:  # e.g. the library is newer than the driver; an older one may lie beside it
            reasons.append("%s: %s" % (name, error))
    why = "; ".join(reasons) or "no libcudart was found; JetPack has it in /usr/local/cuda/lib64, else LD_LIBRARY_PATH"
    raise Refused("no CUDA device can be used: %s" % why, EXIT_ENVIRONMENT)


def driver() -> Any:
    """The loaded libcuda. Refused where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Refused("no CUDA driver is on this device: %s" % error, EXIT_ENVIRONMENT)


def device_of(driver_: Any) -> Dict[str, Any]:
    """Name ("gpu"), "compute_capability" ("8.7") and "multiprocessors" of device 0: what an engine is built for.

    Orin modules of different size share name and capability, and differ in multiprocessors.
    """
    text, number = ctypes.create_string_buffer(256), c_int()
    errors = [driver_.cuInit(0), driver_.cuDeviceGetName(text, 256, 0)]
    numbers = []
    for what in (CAPABILITY_MAJOR, CAPABILITY_MINOR, MULTIPROCESSORS):
        errors.append(driver_.cuDeviceGetAttribute(byref(number), what, 0))
        numbers.append(number.value)
    if any(errors):
        raise Refused("the CUDA driver does not tell what the GPU is: errors %s" % errors, EXIT_ENVIRONMENT)
    return {
        "gpu": text.value.decode("utf-8", "replace").strip(),
        "compute_capability": "%d.%d" % (numbers[0], numbers[1]),
        "multiprocessors": numbers[2],
    }
