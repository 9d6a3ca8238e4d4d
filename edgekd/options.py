"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd import completion

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
    str,
    typer.Option(
        "--profile", "-p", help="Device: a name (edgekd profiles list) or a .toml file.",
        autocompletion=completion.profiles,
    ),
]  # fmt: skip
Data = Annotated[
    Path | None,
    typer.Option(
        "--eval-data",
        help="Labelled images (npz, folder per class, cifar10:ROOT, ...) for the report; never trained on.",
    ),
]
CalibrationData = Annotated[
    Path | None,
    typer.Option(
        "--calibration-data", help="Images of your own (npz): INT8 takes its ranges of them where that is better."
    ),
]
Latency = Annotated[str | None, typer.Option(help="Limit instead of the profile's, e.g. 2ms.")]
MaxParams = Annotated[str | None, typer.Option(help="Limit on the student's parameters, e.g. 500k or 1.5M.")]
MaxMb = Annotated[
    float | None, typer.Option(min=0.001, help="Limit on the deployed graph instead of the profile's, in MB.")
]
MaxMemory = Annotated[
    str | None, typer.Option(help="Limit on activations and weights in RAM instead of the profile's: 300kB, 2MB.")
]
MaxRam = Annotated[
    str | None,
    typer.Option(
        help="Memory of this machine that the work may take: 2GB. Fewer images at once then, the same result."
    ),
]
LikeTeacher = Annotated[
    float | None,
    typer.Option(help="At most this share of the teacher's predicted latency, instead of half of its size."),
]
Student = Annotated[
    str,
    typer.Option(
        "--student",
        "--family",
        help="auto; a family: resnet, bottleneck, wrn, mobilenetv2, mobilenetv3, mcu, cnn, lenet, pruned; or one: "
        "resnet:1x16, resnet8, mobilenetv2:0.35, mcu:2x8, cnn:8, lenet:3, pruned:0.5.",
        autocompletion=completion.students,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; everything else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every figure of the log.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Plain lines instead of a progress bar.")]
Debug = Annotated[bool, typer.Option("--debug", help="A traceback with every error.")]
Soak = Annotated[
    float | None,
    typer.Option(min=0.1, max=1440, help="And run this many minutes at full load: does the device hold its speed?"),
]
Seed = Annotated[int, typer.Option(min=0, help="Of all random numbers.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="Output folder; the same one resumes.")]
OutOrUrl = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="DIR",
        help="Output folder; the same one resumes. Or s3://... and the like: kept there too.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(help="fp32, fp16, int8, or auto: all that the profile names.", autocompletion=completion.precisions),
]
MethodName = Annotated[
    str,
    typer.Option("--method", help="Distillation method; edgekd methods lists them.", autocompletion=completion.methods),
]
Budget = Annotated[
    str,
    typer.Option(
        help="fast, good or best; other methods: fast, paper; or a fraction of the longest, e.g. 0.1.",
        autocompletion=completion.budgets,
    ),
]
Minutes = Annotated[float | None, typer.Option(min=0.5, help="Time for the whole, instead of a budget.")]
Prior = Annotated[
    str | None,
    typer.Option(
        help="Images to start from: none, procedural, photo, or a picture of your own, or a folder of them.",
        autocompletion=completion.priors,
    ),
]
Setting = Annotated[list[str] | None, typer.Option("--set", help="A setting of the method, e.g. student_lr=1e-3.")]
BoardPython = Annotated[str, typer.Option("--python", help="The board's interpreter.")]
SshConfig = Annotated[
    Path | None, typer.Option(envvar="EDGEKD_SSH_CONFIG", help="An ssh configuration instead of yours.")
]
Sign = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY", help="Sign the bundle with this private key (EC, PEM); see edgekd verify."),
]
TeacherLicence = Annotated[
    str,
    typer.Option("--teacher-license", help="The teacher's licence, for the bundle's papers; the student inherits it."),
]
