"""Architectures that edgekd builds itself, as students and as teachers that name them."""

from __future__ import annotations

from edgekd.networks.mobile import MobileNet, mobilenet_v2, mobilenet_v3, tiny
from edgekd.networks.plain import LeNet, PlainNet
from edgekd.networks.residual import ResNet, Shortcut
from edgekd.networks.wide import WideResNet

__all__ = [
    "LeNet",
    "MobileNet",
    "PlainNet",
    "ResNet",
    "Shortcut",
    "WideResNet",
    "mobilenet_v2",
    "mobilenet_v3",
    "tiny",
]
