"""What a runtime is asked to do with a graph, and the one way in which the runner refuses."""

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

EXIT_INPUT, EXIT_ENVIRONMENT, EXIT_MEASUREMENT, EXIT_EXPORT, EXIT_INTEGRITY = 3, 4, 5, 6, 7

Infer = Callable[[Any], Any]  # pixels (N, C, H, W) float32 0..255 -> logits (N, K), any N
Say = Callable[[str], None]


class Refused(Exception):
    """The run cannot go on. exit_code: of the process, as the host reads it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Setting(NamedTuple):
    """How one graph is to run. What has no default comes from the bundle; the rest are the profile's options."""

    shape: Tuple[int, ...]  # of one image: (C, H, W)
    batch: int  # images per inference when latency is measured
    precision: str  # of the graph, as the manifest calls it: "fp32", "fp16", "int8"
    threads: int  # of the CPU; 0: all. TensorRT takes no notice
    engines: str  # folder where built engines and timings are kept; made when needed
    provider: str = "cpu"  # ONNX Runtime's: "cpu", "cuda" or "tensorrt"
    workspace_mb: Optional[int] = None  # 2**20 bytes that a TensorRT kernel may ask for; None: its own limit
    timing_cache: bool = True  # kernels timed once are not timed again
    cuda_graph: bool = False  # TensorRT's launches recorded once and replayed
    dla_core: Optional[int] = None  # a Jetson's DLA instead of its GPU


OPTIONS: Dict[str, Tuple[type, ...]] = {
    "provider": (str,),
    "workspace_mb": (int, type(None)),
    "timing_cache": (bool,),
    "cuda_graph": (bool,),
    "dla_core": (int, type(None)),
}
PROVIDERS = ("cpu", "cuda", "tensorrt")


def options_of(profile: Dict[str, Any], asked: Dict[str, Any]) -> Dict[str, Any]:
    """The profile's options, what was asked for on the command line above them. An unknown one is refused."""
    options = dict(profile.get("options") or {})
    options.update((name, value) for name, value in asked.items() if value is not None)
    for name, value in sorted(options.items()):
        if name not in OPTIONS:
            raise Refused("there is no option %r; there are: %s" % (name, ", ".join(OPTIONS)), EXIT_INPUT)
        # bool is an int in Python, and dla_core = true is a mistake
        if not isinstance(value, OPTIONS[name]) or isinstance(value, bool) != (OPTIONS[name] == (bool,)):
            raise Refused("option %s cannot be %r" % (name, value), EXIT_INPUT)
        if isinstance(value, int) and not isinstance(value, bool) and value < (1 if name == "workspace_mb" else 0):
            raise Refused("option %s cannot be %d" % (name, value), EXIT_INPUT)
    if options.get("provider", "cpu") not in PROVIDERS:
        raise Refused("no provider %r; there are: %s" % (options["provider"], ", ".join(PROVIDERS)), EXIT_INPUT)
    return options
