"""The networks that published latencies were measured on, untrained and without memory (on meta): name -> Cost."""

from __future__ import annotations

import dataclasses
from functools import cache

import torch
from torch import Tensor, nn

from edgekd.latency import cost
from edgekd.types import Cost, Images
from edgekd.vision import torchvision

ALIASES = {  # a name in the table -> network of torchvision or of OWN
    "squeezenet": "squeezenet1_1",
    "squeezenet_v1.1": "squeezenet1_1",
    "squeezenet_v1.0": "squeezenet1_0",
    "mobilenet_v3": "mobilenet_v3_large",
    "mobilenet_v3_small_224": "mobilenet_v3_small",
    "mobilenet_v2_1.0": "mobilenet_v2",
    "mobilenet_v2_1.0_224_edgetpu": "mobilenet_v2",
    "mobilenet_v1_1.0_224_edgetpu": "mobilenet_v1",
    "inception_v1_224_edgetpu": "googlenet",
    "inception_v1": "googlenet",
    "inception_v3_299_edgetpu": "inception_v3",
    "shufflenet_v2": "shufflenet_v2_x1_0",
    "mnasnet": "mnasnet1_0",
    "vgg16": "vgg16",
    "resnet_v1_18": "resnet18",
    "resnet_v1_34": "resnet34",
    "resnet_v1_50": "resnet50",
}
BY_SOURCE = {  # (start of the source, name) -> network, where a name means another one there
    ("qualcomm/ai-hub-models", "shufflenet_v2"): "shufflenet_v2_x0_5",  # 1.37 M parameters in its model card
}
SIZES = {"inception_v3": 299, "mlperf_tiny_resnet8_cifar10": 32}
SIZES |= dict.fromkeys(("vww_person_detection_96", "mlperf_tiny_mobilenetv1_0.25_vww96"), 96)
NCNN_SQUEEZENET = 227  # pixels; everything else is 224


@cache
def network_cost(name: str, source: str = "") -> Cost | None:
    """What one image costs the network that `source` calls `name`; None where it is not known here.

    Without the normalisation that edgekd's own graphs begin with: the published graphs have none.
    """
    other = next((to for (start, of), to in BY_SOURCE.items() if of == name and source.startswith(start)), None)
    network = other or ALIASES.get(name, name)
    size = SIZES.get(network, 224)
    if name == "squeezenet" and source.startswith("Tencent/ncnn"):
        size = NCNN_SQUEEZENET
    channels = 1 if name == "vww_person_detection_96" else 3
    if network not in OWN and network not in torchvision().models.list_models(module=torchvision().models):
        return None
    with torch.device("meta"):
        model = OWN[network]() if network in OWN else torchvision().models.get_model(network, weights=None)
    found = cost(model.eval(), Images(channels, size, size, (0.0,) * channels, (1.0,) * channels))
    assert found.ops[0].operator == "elementwise"
    return dataclasses.replace(found, ops=found.ops[1:])


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


def mobilenet_v1(width: float = 1.0, classes: int = 1000, channels: int = 3) -> nn.Sequential:
    """MobileNet of arXiv:1704.04861: depthwise 3x3 and pointwise layers in turns."""
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    now = int(32 * width)
    parts: list[nn.Module] = [_conv(channels, now, 3, 2)]
    for outputs, stride in plan:
        parts += [_conv(now, now, 3, stride, groups=now), _conv(now, int(outputs * width), 1)]
        now = int(outputs * width)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(now, classes))


class _Tiny(nn.Module):
    """A residual block of MLPerf Tiny's ResNet-8."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = _conv(inputs, outputs, 3, stride), _conv(outputs, outputs, 3)
        self.short = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(x)) + self.short(x)
        return out


def resnet8() -> nn.Sequential:
    """ResNet-8 of MLPerf Tiny's image classification: 12.5 million multiply-adds on 32x32."""
    blocks = [_Tiny(16, 16, 1), _Tiny(16, 32, 2), _Tiny(32, 64, 2)]
    return nn.Sequential(_conv(3, 16, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        first = [_conv(inputs, wide, 1)] if expand > 1 else []
        self.body = nn.Sequential(*first, _conv(wide, wide, kernel, stride, wide), _conv(wide, outputs, 1)[:2])
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out + x if self.residual else out


def efficientnet_lite0() -> nn.Sequential:
    """EfficientNet-Lite0: B0 without squeeze-and-excitation, with ReLU6."""
    plan = [
        (16, 3, 1, 1, 1),
        (24, 3, 2, 6, 2),
        (40, 5, 2, 6, 2),
        (80, 3, 2, 6, 3),
        (112, 5, 1, 6, 3),
        (192, 5, 2, 6, 4),
    ]
    parts, now = [_conv(3, 32, 3, 2)], 32
    for outputs, kernel, stride, expand, count in [*plan, (320, 3, 1, 6, 1)]:
        for i in range(count):
            parts.append(nn.Sequential(_Inverted(now, outputs, kernel, stride if i == 0 else 1, expand)))
            now = outputs
    return nn.Sequential(*parts, _conv(now, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


OWN = {
    "mobilenet_v1": mobilenet_v1,
    "mlperf_tiny_resnet8_cifar10": resnet8,
    "mlperf_tiny_mobilenetv1_0.25_vww96": lambda: mobilenet_v1(0.25, 2),
    "vww_person_detection_96": lambda: mobilenet_v1(0.25, 2, 1),
    "efficientnet_lite0": efficientnet_lite0,
}
