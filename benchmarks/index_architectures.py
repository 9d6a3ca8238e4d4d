"""Makes edgekd/teacher/recognition/architectures.json: what the classifiers of torchvision and timm can be told by.

    python benchmarks/index_architectures.py      needs pip install timm; a few minutes on 2 cores

Every network is built without memory for its weights. Those that cannot be are listed at the end.
"""

from __future__ import annotations

import json
import warnings
from functools import partial
from importlib.metadata import version
from typing import Any

from torch import nn

from edgekd.files import written
from edgekd.teacher.recognition.library import INDEX, build, listed, signature
from edgekd.teacher.recognition.weights import blank

SIDES = {"inception_v3": 299, "vit_h_14": 224, "googlenet": 224}
MEANS = {(0.485, 0.456, 0.406): "imagenet", (0.5, 0.5, 0.5): "half", (0.48145466, 0.4578275, 0.40821073): "clip"}
MEANS |= {(0.0, 0.0, 0.0): "unit"}


def facts(arch: str, network: nn.Module) -> tuple[int, str]:
    """The side of the network's images in pixels, and what they are normalised by."""
    config: dict[str, Any] = getattr(network, "default_cfg", {})
    if not config:
        return SIDES.get(arch.partition(":")[2], 224), "imagenet"
    return config["input_size"][1], MEANS.get(tuple(config["mean"]), "other")


def main() -> None:
    networks: dict[str, tuple[str, int, str]] = {}
    failed: list[str] = []
    for library in ("torchvision", "timm"):
        for name in sorted(listed(library), key=lambda name: (len(name), name)):
            arch = f"{library}:{name}"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    network = blank(partial(build, arch, 1000))
            except Exception as error:  # whatever a library raises without what it builds on
                failed.append(f"{arch}: {type(error).__name__} {error}")
                continue
            shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
            if max((len(shape) for shape in shapes.values()), default=0) < 5:  # five: video
                networks[arch] = (" ".join(signature(shapes)), *facts(arch, network))
    versions = {library: version(library).partition("+")[0] for library in ("torchvision", "timm")}
    lines = ",\n".join(f"{json.dumps(arch)}: {json.dumps(entry)}" for arch, entry in networks.items())
    with written(INDEX) as temporary:
        temporary.write_text(
            f'{{"versions": {json.dumps(versions)},\n"networks": {{\n{lines}\n}}}}\n', encoding="utf-8"
        )
    print(f"{len(networks)} networks; {len(failed)} could not be built", *failed, sep="\n")


if __name__ == "__main__":
    main()
