"""The nouns of edgekd: frozen dataclasses without behaviour. Units stand in the name or on the line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


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

    model: nn.Module
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
    memory_mb: float | None = None  # 10**6 bytes: weights and the two largest neighbouring activations


@dataclass(frozen=True)
class Hardware:
    """Figures of a device. Peaks are those of the unit that runs the network (GPU or CPU)."""

    peak_gflops: Mapping[str, float]  # precision -> 10**9 operations/s, 2 per multiply-add
    bandwidth_gb_per_s: float
    memory_gb: float
    source: str


@dataclass(frozen=True)
class Latency:
    """t = compute * flops/peak + traffic * bytes/bandwidth + layer_us * layers; see edgekd/latency.py."""

    compute: float
    traffic: float
    layer_us: float
    error: float  # relative half width of the interval, of the fit's worst row
    basis: str  # where the coefficients come from


@dataclass(frozen=True)
class Profile:
    """A device as edgekd sees it: one TOML file of profiles/."""

    name: str
    summary: str
    target: str  # runtime on the device: the name of a graph flavour, "onnxrt" or "tensorrt"
    precisions: tuple[str, ...]  # graphs to build, of "fp32" and "int8"
    limits: Limits
    hardware: Hardware
    latency: Latency
    opset: int  # of the exported graphs
    batch: int = 1  # images per inference when latency is measured
    threads: int = 0  # CPU threads of the runtime; 0: all cores
    note: str = ""  # what a user of this device must know


@dataclass(frozen=True)
class StudentSpec:
    """An architecture of a family; edgekd/student.py builds it."""

    family: str  # of edgekd/student.py: "resnet", "resnet-a" (CIFAR's shortcuts), "wrn", "cnn", "lenet", "pruned", ...
    depth: int  # resnet: blocks per stage; wrn: layers; others: 1
    width: int  # channels of the first layer; pruned: percent of the teacher's MACs
    images: Images
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What one image costs a network."""

    parameters: int
    macs: int  # multiply-adds
    layers: int  # layers with weights, each one launch
    traffic_elements: int  # numbers read and written: weights, inputs and outputs of those layers
    peak_elements: int  # numbers in the largest input and output of one layer together


@dataclass(frozen=True)
class Layer:
    """What one image costs one layer with weights."""

    name: str  # where its weights lie in the network
    operator: str  # convolution, addmm, ...
    output: tuple[int, ...]  # shape without the batch
    parameters: int
    macs: int  # multiply-adds


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


Sampler = Callable[[int], "Tensor"]  # n -> images (n, C, H, W), normalised, as the student saw them


class Method(Protocol):
    """A data-free distillation method: a module with these names satisfies it."""

    @property
    def Config(self) -> type: ...
    @property
    def BUDGETS(self) -> Mapping[str, Any]: ...

    def derived(self, config: Any, teacher: Teacher) -> Any: ...
    def distill(self, teacher: Teacher, student: nn.Module, config: Any, run: Run) -> Sampler: ...


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


@dataclass(frozen=True)
class Bundle:
    """A folder that runs on a device."""

    folder: Path
    manifest: Manifest
