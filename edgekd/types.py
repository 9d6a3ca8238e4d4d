"""The nouns of edgekd: frozen dataclasses without behaviour. Units stand in the name or on the line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Images:
    """What a network is fed: (pixel / 255 - mean) / std per channel, pixels in 0..255."""

    channels: int
    height: int  # pixels
    width: int  # pixels
    mean: tuple[float, ...]  # one per channel, of pixel / 255
    std: tuple[float, ...]  # one per channel, of pixel / 255; > 0


@dataclass(frozen=True)
class Teacher:
    """A trained classifier in eval mode without gradients to its weights: (N, C, H, W) -> logits (N, K)."""

    model: torch.nn.Module
    images: Images
    classes: tuple[str, ...]  # K names, in the order of the logits
    sha256: str  # of the checkpoint file
    architecture: str  # its name, or "program" where the file carries the graph
    notes: tuple[str, ...] = ()  # what reading it took off, left out or found, a sentence each
    warnings: tuple[str, ...] = ()  # what was assumed, or does not fit


@dataclass(frozen=True)
class Limits:
    """What the device or its user can afford. None: no limit."""

    latency_ms: float | None = None  # p90 of one batch of the profile's size
    model_mb: float | None = None  # 10**6 bytes of the graph that is deployed
    memory_mb: float | None = None  # 10**6 bytes of working memory: activations, and weights where RAM holds them
    parameters: int | None = None  # weights, biases and statistics of BatchNorm together


@dataclass(frozen=True)
class Figure:
    """A figure of a device, with where it comes from."""

    value: float  # in the unit that the key's name says
    basis: str  # "measured", "vendor" (it says so itself) or "derived" (computed from other figures)
    source: str  # where it can be read, or what it was computed from


@dataclass(frozen=True)
class Hardware:
    """Figures of a device. Peaks are those of the unit that runs the network (GPU, CPU or NPU)."""

    peak_gflops: Mapping[str, Figure]  # precision -> 10**9 operations/s, 2 per multiply-add; dense
    bandwidth_gb_per_s: Figure  # 10**9 bytes/s that this unit reads and writes
    memory_gb: Figure  # 10**9 bytes of RAM; of a microcontroller its on-chip RAM
    unit: str = "cpu"  # what runs the network: "cpu", "gpu" or "npu"
    cpu_peak_gflops: Mapping[str, Figure] = field(default_factory=dict)  # of the CPU beside a GPU or NPU
    flash_mb: Figure | None = None  # 10**6 bytes for program and weights; microcontrollers
    weights_in_flash: bool = False  # weights are read in place and take no RAM
    cores: int = 0  # of the CPU; 0: not known


@dataclass(frozen=True)
class Runtime:
    """What runs the graph on the device, and the newest ONNX that it (or its converter) reads."""

    name: str  # "tensorrt", "onnxruntime", "rknn", "hailort", "qnn", "tflite-micro", ...
    version: str = ""  # as its vendor writes it, e.g. "8.2.1" or "1.16 or later"; empty: not known
    opset_max: int | None = None  # newest ONNX opset; not set: not known
    ir_max: int | None = None  # newest ONNX IR version; not set: not known
    source: str = ""  # where opset_max and ir_max can be read
    int8_weight_bits: int = 8  # of INT8 graphs; 7 on x86 without VNNI, whose fast kernels overflow on 8


@dataclass(frozen=True)
class PowerMode:
    """A setting of the board that changes clocks. A latency holds for one of them."""

    name: str  # as the board's own tool calls it
    watts: float | None = None  # budget of the mode; not set: not limited or not known
    source: str = ""  # where the watts can be read


@dataclass(frozen=True)
class RunnerOptions:
    """How the runner is to use the device's runtime; targets/setting.py reads them."""

    provider: str = "cpu"  # ONNX Runtime's: "cpu", "cuda" or "tensorrt"; one that does not truly run is an error
    workspace_mb: int | None = None  # 2**20 bytes that a TensorRT kernel may ask for; not set: its own limit
    timing_cache: bool = True  # kernels that TensorRT timed once are not timed again
    cuda_graph: bool = False  # launches recorded once and replayed
    dla_core: int | None = None  # a Jetson's DLA instead of its GPU; not set: the GPU


@dataclass(frozen=True)
class Latency:
    """One way to run networks on a device, and the coefficients that predict its milliseconds; edgekd/latency.py."""

    runtime: str  # "tensorrt", "onnxruntime", "ncnn", ...
    unit: str  # "gpu", "cpu", "npu"
    precision: str  # of the graph, as the measurement names it
    coefficients: Mapping[str, float]  # by the names in edgekd/latency/prediction.py
    error: float  # relative half width of the interval
    basis: str  # "measured" on this device, or "derived" from others of its family
    source: str  # what they were fitted to, and how well
    threads: int = 0  # CPU threads; 0: all, or no CPU


@dataclass(frozen=True)
class Profile:
    """A device as edgekd sees it: one TOML file of profiles/."""

    name: str  # of the file, without .toml
    summary: str  # the device in a few words; what its figures hold for behind a comma
    target: str  # flavour of the graphs: "onnxrt", "tensorrt", "openvino", "litert", or "onnx" for a vendor's converter
    precisions: tuple[str, ...]  # graphs to build, of "fp32", "fp16" and "int8"
    limits: Limits  # defaults of edgekd for this class of device
    hardware: Hardware  # figures with their sources
    latency: tuple[Latency, ...]  # fitted coefficients, for each of precisions; the last part of the file
    opset: int  # ONNX opset of the exported graphs, 13 to 23; not above runtime.opset_max
    batch: int = 1  # images per inference when latency is measured
    threads: int = 0  # CPU threads of the runtime; 0: all cores
    note: str = ""  # what a user of this device must know
    device_class: str = "other"  # "jetson", "sbc", "x86", "mobile", "npu", "mcu", "server" or "other"
    runtime: Runtime | None = None  # what runs the graphs there; not set: not known
    converter: str = ""  # what turns the ONNX into the vendor's format, and what it wants; needed by target "onnx"
    pays: Mapping[str, str] = field(default_factory=dict)  # precision -> why it is faster than fp32 here, with source
    slower: Mapping[str, str] = field(default_factory=dict)  # precision -> why it is not faster than fp32 here
    align: int = 8  # channels of a layer should be multiples of this
    align_source: str = ""  # where align comes from
    options: RunnerOptions | None = None  # how the runner runs the graphs there; not set: as its runtime does by itself
    power_modes: tuple[PowerMode, ...] = ()  # the first is the one that the figures are for
    system: str = ""  # operating system or SDK of the image
    python: str = ""  # version on the system image, e.g. "3.10"; empty: none or not known


@dataclass(frozen=True)
class StudentSpec:
    """An architecture of a family; edgekd/student.py builds it."""

    family: str  # of edgekd/student.py: "resnet", "resnet-a" (CIFAR's shortcuts), "wrn", "cnn", "lenet", "pruned", ...
    depth: int  # resnet: blocks per stage; wrn: layers; others: 1
    width: int  # channels of the first layer; pruned: percent of the teacher's MACs
    images: Images
    classes: tuple[str, ...]
    channels_by: str = ""  # pruned: prior whose images showed what each channel is worth; empty: the weights did


@dataclass(frozen=True)
class Cost:
    """What one image costs a network."""

    parameters: int
    macs: int  # multiply-adds
    layers: int  # layers with weights
    traffic_elements: int  # numbers read and written by all fused layers: weights, inputs and outputs
    peak_elements: int  # numbers in the inputs and outputs of one fused layer together, of the largest
    ops: tuple[Layer, ...] = field(default=(), repr=False)  # fused layers in their order; left out of documents


@dataclass(frozen=True)
class Layer:
    """A fused layer, one launch of the runtime: with BatchNorm, activation and residual sum. Of one image."""

    name: str = field(compare=False)  # where its weights lie in the network; empty without weights
    operator: str  # conv, pointwise, depthwise, grouped, linear, matmul; pool, concat, copy, elementwise, other
    output: tuple[int, ...]  # shape without the batch
    parameters: int = field(compare=False)  # weights and bias
    macs: int  # multiply-adds
    read_elements: int = 0  # numbers read, weights apart
    written_elements: int = 0
    weights: int = 0  # numbers in them, without the bias
    inputs: int = 0  # channels; 0: no weights
    outputs: int = 0  # channels
    groups: int = 1
    kernel: int = 1  # weights per input and output channel: 9 for 3x3


@dataclass(frozen=True)
class Prediction:
    """Milliseconds per batch, with the interval in which the device's figure is expected."""

    latency_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Sizing:
    """The student that was chosen and what it is expected to cost."""

    spec: StudentSpec
    student: Cost
    teacher: Cost
    predicted: Mapping[str, Prediction]  # precision -> latency on the profile's device
    teacher_predicted: Mapping[str, Prediction]
    candidates: int  # how many were looked at
    bound_by: str  # the limit that the next larger candidate breaks


@dataclass(frozen=True)
class Candidate:
    """A student that was looked at."""

    spec: StudentSpec
    cost: Cost
    predicted: Mapping[str, Prediction]  # precision -> latency on the profile's device
    expected: float  # 0 to 1, more is better; Search.basis says what it is
    memory_mb: float  # 10**6 bytes that inference needs; edgekd/sizing.py defines it
    broken: tuple[str, ...]  # limits that it breaks, a short sentence each; empty: it fits
    precision: str  # the fastest that keeps every limit; where none does, the one that is nearest to it


@dataclass(frozen=True)
class Search:
    """Every student that was looked at, and the one that was chosen."""

    candidates: tuple[Candidate, ...]  # the fastest first
    front: tuple[Candidate, ...]  # nothing that is as fast is expected to be better; the fastest first
    chosen: Candidate
    bound_by: str  # the limits that the next better candidate breaks
    basis: str  # where `expected` comes from, and what was left out, in words


@dataclass(frozen=True)
class Recipe:
    """How a student was trained."""

    method: str
    budget: str
    config: Any  # of the method
    seed: int


class Log(Protocol):
    """Takes one line of a training's progress. Figures are plain numbers."""

    def __call__(self, phase: str, step: int, steps: int, **figures: float) -> None: ...


@dataclass(frozen=True)
class Run:
    """The circumstances of a training, apart from the method's Config."""

    device: torch.device
    seed: int
    folder: Path  # checkpoints are kept here
    log: Log


Sampler = Callable[[int], "torch.Tensor"]  # n -> images (n, C, H, W), normalised, as the student saw them


@dataclass(frozen=True)
class Manifest:
    """manifest.json: the only thing that host and device share."""

    schema: int
    target: str
    batch: int
    threads: int
    images: Images
    classes: tuple[str, ...]
    graphs: Mapping[str, str]  # precision -> file name
    files: Mapping[str, str]  # path in the bundle -> sha256
    parity: Mapping[str, Any]  # precision -> differences between the graph and torch, on the host
    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    method: Mapping[str, Any]
    profile: Mapping[str, Any]
    data: str  # what was used to make the student, in words
    made_with: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)  # of edgekd/provenance.py
    fidelity: Mapping[str, Any] = field(default_factory=dict)  # of edgekd/fidelity.py; empty: older or only measured


@dataclass(frozen=True)
class Bundle:
    """A folder that runs on a device."""

    folder: Path
    manifest: Manifest
