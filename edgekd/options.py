"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TeacherFile = Annotated[
    Path,
    typer.Argument(help="Teacher: weights (torch, safetensors, TorchScript), or a graph (edgekd, torch.export, ONNX)."),
]
Arch = Annotated[
    str | None,
    typer.Option(help="Where the weights are not recognised: resnet20, torchvision:NAME, file.py:FACTORY (your code)."),
]
Input = Annotated[str | None, typer.Option("--input", help="Where the file does not say: CxHxW, e.g. 3x32x32.")]
Mean = Annotated[
    str | None, typer.Option(help="Of pixel/255, e.g. .485,.456,.406; or a name: imagenet, cifar10, mnist, half, unit.")
]
Std = Annotated[str | None, typer.Option(help="Of pixel/255, e.g. .229,.224,.225; with a named mean not needed.")]
Classes = Annotated[str | None, typer.Option(help="Class names, comma-separated, where the file has none.")]
ProfileName = Annotated[
    str, typer.Option("--profile", "-p", help="Device: a name (edgekd profiles list) or a .toml file.")
]
Data = Annotated[
    Path | None, typer.Option("--eval-data", help="Labelled images (npz) for the report; never trained on.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; everything else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every figure of the log.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Plain lines instead of a progress bar.")]
Debug = Annotated[bool, typer.Option("--debug", help="A traceback with every error.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all random numbers.")]
