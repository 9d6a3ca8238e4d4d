"""Teachers that come as graphs: .pt2 and .onnx against torch and ONNX Runtime, which made them or run them too."""

from __future__ import annotations

import io
import json
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch import Tensor, nn

from edgekd.errors import TeacherError
from edgekd.export import export_fp32
from edgekd.networks import LeNet
from edgekd.observe import Observed
from edgekd.program import Program, without_softmax
from edgekd.teacher.content import Content
from edgekd.teacher.graphs import onnx_graph, pt2
from edgekd.types import Images
from edgekd.vision import torchvision

TOLERANCE = 1e-5  # of the largest logit
BATCH = torch.export.Dim("batch", min=1)


def refused(call: Callable[[], Any]) -> TeacherError:
    with pytest.raises(TeacherError) as caught:
        call()
    assert caught.value.exit_code == 3
    return caught.value


def program(content: Content) -> Program:
    assert content.nodes is not None
    return Program(json.loads(json.dumps(content.nodes)), content.tensors)


def held(content: Content, model: Callable[[Tensor], Tensor], images: Tensor) -> Observed:
    """Holds the graph against the network: logits, and gradients to the images. Gives what was seen on the way."""
    images = images.clone().requires_grad_()
    with torch.no_grad():
        wanted = model(images)
    observed = Observed()
    with observed:
        logits = program(content)(images)
    assert logits.shape == wanted.shape
    assert (logits - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
    logits.square().sum().backward()
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().sum() > 0
    return observed


class Grouped(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8), nn.GELU(),
            nn.AvgPool2d(2), nn.Flatten(), nn.LayerNorm(8 * 15 * 15), nn.Linear(8 * 15 * 15, 5),
        )  # fmt: skip


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.places = nn.Parameter(torch.randn(1, 17, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        logits: Tensor = self.head(self.encoder(x)[:, 0])
        return logits


def zoo(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: torchvision().models.get_model(name, weights=None, num_classes=5, **kwargs)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": zoo("resnet18"),
    "mobilenet_v3_small": zoo("mobilenet_v3_small"),
    "squeezenet1_1": zoo("squeezenet1_1"),
    "shufflenet_v2_x0_5": zoo("shufflenet_v2_x0_5"),
    "vit": Vit,
    "lenet": lambda: LeNet(Images(3, 64, 64, (0.5,) * 3, (0.5,) * 3), 5),
    "grouped": Grouped,
}
made: dict[str, nn.Module] = {}


def network(name: str) -> nn.Module:
    """In eval mode, with statistics and weights of BatchNorm that are not those of its beginning."""
    if name not in made:
        torch.manual_seed(0)
        model = NETWORKS[name]().eval()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None and layer.running_var is not None
                nn.init.normal_(layer.running_mean, std=0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.7, 1.3)
        made[name] = model
    return made[name]


def images(count: int, side: int = 64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def exported(model: nn.Module, path: Path, *, count: int = 2, free: bool = True, parts: bool = False) -> Path:
    shapes = ({0: BATCH},) if free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.export.export(model, (images(count),), dynamic_shapes=shapes)
        torch.export.save(found.run_decompositions() if parts else found, path)
    return path


def older(path: Path) -> Path:
    """The same program in the layout of torch 2.4 to 2.7: two torch files beside the JSON."""
    found = torch.export.load(path)
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("models/model.json")]
        text = archive.read(name)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.2")
        archive.writestr("serialized_exported_program.json", text)
        for kind, value in (("state_dict", found.state_dict), ("constants", found.constants)):
            stream = io.BytesIO()
            torch.save(dict(value), stream)
            archive.writestr(f"serialized_{kind}.pt", stream.getvalue())
        archive.writestr("serialized_example_inputs.pt", b"\x80\x02cos\nmkdir\n.")  # is not touched
    return path


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        *((name, "free") for name in ("mobilenet_v3_small", "squeezenet1_1", "vit", "lenet", "grouped")),
        *((name, "fixed") for name in ("shufflenet_v2_x0_5", "squeezenet1_1", "vit", "lenet", "grouped")),
        *((name, "free parts") for name in ("resnet18", "squeezenet1_1", "lenet", "grouped")),
        *((name, "fixed parts") for name in ("vit", "grouped")),
    ],
)
def test_pt2(name: str, ways: str, tmp_path: Path) -> None:
    model = network(name)
    free = "free" in ways
    path = exported(model, tmp_path / "t.pt2", count=2 if free else 1, free=free, parts="parts" in ways)
    content = pt2.read(path)
    assert content.format == "torch.export" and content.size == (3, 64, 64)
    state = model.state_dict()
    for key in content.tensors.keys() & state.keys():
        assert torch.equal(content.tensors[key], state[key])
    observed = held(content, model, images(3))
    assert len(observed.batch_norms) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    if name != "squeezenet1_1":
        assert observed.classifier is not None and observed.classifier.weight.shape[0] == 5
    assert program(content).part is None


def test_pt2_of_the_older_layout(tmp_path: Path) -> None:
    path = older(exported(network("grouped"), tmp_path / "t.pt2"))
    held(pt2.read(path), network("grouped"), images(3))


def test_pt2_in_training_mode_runs_in_eval_mode(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 62 * 62, 5)
    )
    for parts in (False, True):
        path = exported(model.train(), tmp_path / "t.pt2", parts=parts)
        content = pt2.read(path)
        assert any("training" in note for note in content.notes)
        assert len(held(content, model.eval(), images(3)).batch_norms) == 1


class Bound(nn.Module):
    """Its sum over the batch cannot be opened."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5] + x.sum(dim=0, keepdim=True).flatten(1)[:, :5]


def test_graph_that_is_bound_to_its_batch_runs_in_parts(tmp_path: Path) -> None:
    content = pt2.read(exported(Bound(), tmp_path / "t.pt2", count=1, free=False))
    assert program(content).part == 1 and any("parts" in note for note in content.notes)
    x = images(3)
    held(content, lambda x: torch.cat([Bound()(one) for one in x.split(1)]), x)


def test_pt2_of_half_precision(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 62 * 62, 5)).bfloat16().eval()
    torch.export.save(torch.export.export(model, (images(2).bfloat16(),)), tmp_path / "t.pt2")
    content = pt2.read(tmp_path / "t.pt2")
    assert {t.dtype for t in content.tensors.values()} == {torch.float32}
    held(content, model.float(), images(3))


def altered(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The archive with another program in its JSON."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [n for n in content if n.endswith("models/model.json")]
    document = json.loads(content[name])
    change(document)
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in (content | {name: json.dumps(document).encode()}).items():
            archive.writestr(key, value)
    return path


def test_pt2_with_an_operator_outside_the_list(tmp_path: Path) -> None:
    for target in ("torch.ops.aten.from_file.default", "os.system", "torch.ops.higher_order.cond", "torch.load"):
        path = exported(network("grouped"), tmp_path / "t.pt2")

        def change(document: dict[str, Any], target: str = target) -> None:
            document["graph_module"]["graph"]["nodes"][2]["target"] = target

        error = refused(lambda path=path, change=change: pt2.read(altered(path, change)))  # type: ignore[misc]
        assert error.code == "E0322" and target.split(".")[-1] in error.what


def test_pt2_expressions_are_not_evaluated(tmp_path: Path) -> None:
    path = exported(network("grouped"), tmp_path / "t.pt2")

    def change(document: dict[str, Any]) -> None:
        for value in document["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = "__import__('os').mkdir('exploited')"

    held(pt2.read(altered(path, change)), network("grouped"), images(3))


def test_damaged_pt2(tmp_path: Path) -> None:
    whole = exported(network("lenet"), tmp_path / "whole.pt2").read_bytes()
    path, draw = tmp_path / "t.pt2", random.Random(0)
    for length in range(1, len(whole), len(whole) // 60):
        path.write_bytes(whole[:length])
        assert refused(lambda: pt2.read(path)).code == "E0325"
    with zipfile.ZipFile(tmp_path / "whole.pt2") as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("models/model.json")]
        info = archive.getinfo(name)
    for _ in range(60):
        cut = bytearray(whole)
        cut[info.header_offset + 100 + draw.randrange(info.file_size)] = draw.randrange(256)
        path.write_bytes(cut)  # its checksum is wrong, or it is in the padding before
        try:
            pt2.read(path)
        except TeacherError as error:
            assert error.code.startswith("E032")


def test_pt2_tensor_that_asks_for_more_than_it_has(tmp_path: Path) -> None:
    path = exported(network("lenet"), tmp_path / "t.pt2")
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [n for n in content if n.endswith("weights_config.json")]
    for key, value in (("sizes", 1 << 40), ("strides", 1 << 40), ("strides", -1), ("storage_offset", 1 << 40)):
        document = json.loads(content[name])
        meta = next(iter(document["config"].values()))["tensor_meta"]
        if key == "storage_offset":
            meta[key] = {"as_int": value}
        else:
            meta[key][0] = {"as_int": value}
        with zipfile.ZipFile(path, "w") as archive:
            for part, data in (content | {name: json.dumps(document).encode()}).items():
                archive.writestr(part, data)
        assert refused(lambda: pt2.read(path)).code == "E0325"


def test_pt2_compressed_parts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("models/model.json", b"0" * 10_000_000)
    assert "compressed" in refused(lambda: pt2.read(path)).what


def to_onnx(model: nn.Module, path: Path, opset: int, *, dynamo: bool, free: bool = True, plain: bool = False) -> Path:
    """plain: with BatchNorm as it is, as old exporters left it."""
    options: dict[str, Any] = {"opset_version": opset, "dynamo": dynamo, "verbose": False, "input_names": ["x"]}
    if dynamo:
        options |= {"external_data": False, "dynamic_shapes": ({0: BATCH},) if free else None}
    else:
        options |= {"dynamic_axes": {"x": {0: "batch"}} if free else None}
        if plain:
            options |= {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images(2 if dynamo and free else 1),), path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "opset", "options"),
    [
        *((name, 14, {}) for name in NETWORKS),
        *((name, 14, {"free": False}) for name in ("shufflenet_v2_x0_5", "vit", "grouped", "squeezenet1_1")),
        *((name, 11, {"plain": True}) for name in ("resnet18", "mobilenet_v3_small", "lenet")),
        *(("resnet18", opset, {"plain": True}) for opset in (9, 20)),
        ("lenet", 9, {}),
        ("grouped", 17, {}),
        ("vit", 17, {}),
        ("lenet", 20, {"dynamo": True}),
        ("vit", 18, {"dynamo": True}),
        ("grouped", 18, {"dynamo": True, "free": False}),
    ],
)
def test_onnx(name: str, opset: int, options: dict[str, Any], tmp_path: Path) -> None:
    model = network(name)
    path = to_onnx(model, tmp_path / "t.onnx", opset, **{"dynamo": False, **options})
    content = onnx_graph.read(path)
    assert content.format == "onnx" and content.size == (3, 64, 64) and content.images is None
    observed = held(content, model, images(3))
    if options.get("plain"):
        assert len(observed.batch_norms) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    if name != "squeezenet1_1":
        assert observed.classifier is not None and observed.classifier.weight.shape[0] == 5
    assert program(content).part is None


def test_onnx_of_edgekd_itself(tmp_path: Path) -> None:
    """The normalisation inside is taken out, so that the images are those of the network before its export."""
    facts = Images(3, 64, 64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    export_fp32(network("lenet"), facts, list("abcde"), tmp_path / "t.onnx", opset=17)
    content = onnx_graph.read(tmp_path / "t.onnx")
    assert content.images == facts and content.classes == tuple("abcde")
    held(content, network("lenet"), images(3))


def graph(text: str, *tensors: tuple[str, Any]) -> onnx.ModelProto:
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in tensors)
    return model


def small(
    body: str, *tensors: tuple[str, Any], opset: int = 13, shape: str = "N, 4, 8, 8", ir: int = 8
) -> onnx.ModelProto:
    """x of `shape` -> body, which makes y -> logits of every image by a fixed linear layer."""
    head = "y2 = Flatten<axis = 1>(y)\n"
    return graph(
        f'<ir_version: {ir}, opset_import: ["": {opset}]>\nnet (float[{shape}] x) => (float[N, K] out)\n'
        f"{{\n{body}\n{head}out = Identity(y2)\n}}",
        *tensors,
    )


rng = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return rng.standard_normal(shape).astype(np.float32)


def i(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


W = ("w", f(6, 4, 3, 3))
Case = tuple[str, list[tuple[str, Any]], int]
CASES: list[Case] = [
    ("y = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b)", [W, ("b", f(6))], 13),
    ("y = Conv<pads = [0, 1, 2, 1]>(x, w)", [W], 13),
    *((f'y = Conv<auto_pad = "{way}", strides = [2, 2]>(x, w)',
     [W], 13) for way in ("SAME_UPPER", "SAME_LOWER", "VALID")),
    ("y = Conv<group = 2, dilations = [2, 1]>(x, w)", [("w", f(6, 2, 3, 3))], 9),
    ("x3 = Reshape(x, s)\ny = Conv<pads = [1, 1]>(x3, w)", [("s", i(0, 4, 64)), ("w", f(5, 4, 3))], 13),
    ("y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>(x, w)",
     [("w", f(4, 3, 3, 3))], 13),
    ("y = BatchNormalization<epsilon = 0.01>(x, w, b, m, v)",
     [("w", f(4)), ("b", f(4)), ("m", f(4)), ("v", np.abs(f(4)) + 0.1)], 9),
    ("y = BatchNormalization(x, w, b, m, v)", [("w", f(4)), ("b", f(4)), ("m", f(4)), ("v", np.abs(f(4)) + 0.1)], 15),
    ("y = InstanceNormalization(x, w, b)", [("w", f(4)), ("b", f(4))], 13),
    ("y = LayerNormalization<axis = -1>(x, w, b)", [("w", f(8)), ("b", f(8))], 17),
    ("y = LayerNormalization<axis = 2>(x, w)", [("w", f(8, 8))], 17),
    ("y = GroupNormalization<num_groups = 2>(x, w, b)", [("w", f(4)), ("b", f(4))], 21),
    ("y = LRN<size = 3, alpha = 0.5, beta = 0.6, bias = 2.0>(x)", [], 13),
    *((f"y = {name}(x)", [], 13) for name in (
        "Relu", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "Exp", "Abs", "Neg", "Erf", "Identity", "LeakyRelu",
        "HardSigmoid", "Softsign", "Celu", "Sin", "Floor")),
    ("y = HardSwish(x)", [], 14), ("y = Mish(x)", [], 18), ("y = Gelu(x)", [], 20),
    ('y = Gelu<approximate = "tanh">(x)', [], 20), ("y = HardSigmoid<alpha = 0.3, beta = 0.4>(x)", [], 9),
    ("y = Elu<alpha = 0.7>(x)", [], 9), ("y = LeakyRelu<alpha = 0.2>(x)", [], 9),
    ("y = PRelu(x, s)", [("s", f(4, 1, 1))], 13), ("y = PRelu(x, s)", [("s", f(1))], 9),
    ("y = Clip<min = -0.5, max = 0.7>(x)", [], 9),
    ("y = Clip(x, lo, hi)", [("lo", np.float32(-0.3)), ("hi", np.float32(0.6))], 13),
    ("y = Clip(x, lo)", [("lo", np.float32(0.1))], 12),
    ("a = Abs(x)\nb = Add(a, c)\nd = Sqrt(b)\ne = Log(b)\ng = Reciprocal(b)\nh = Sub(d, e)\nk = Mul(h, g)\n"
     "y = Div(k, b)",
     [("c", np.float32(0.5))], 13),
    ("a = Pow(x, p)\ny = Max(a, x, c)", [("p", np.float32(2)), ("c", f(1, 4, 1, 1))], 13),
    ("a = Abs(x)\ny = Pow(a, p)", [("p", np.abs(f(4, 1, 1)) + 1)], 13),
    ("y = Min(x, c)", [("c", f(8))], 13),
    ("y = Sum(x, c, x)", [("c", f(4, 1, 1))], 13),
    ("y = Mean(x, c)", [("c", f(8, 8))], 13),
    ("y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)", [], 13),
    ("y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]>(x)", [], 9),
    ("y = MaxPool<kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1>(x)", [], 13),
    ("y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x)", [], 13),
    *((f'y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "{w}">(x)',
     [], 13) for w in ("SAME_UPPER", "SAME_LOWER")),
    ("y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)", [], 13),
    ("y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)", [], 13),
    ("y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]>(x)", [], 13),
    ("y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1], count_include_pad = 1>(x)", [], 13),
    ("y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)", [], 13),
    ('y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x)', [], 13),
    ("y = GlobalAveragePool(x)", [], 13), ("y = GlobalMaxPool(x)", [], 13),
    ("y = ReduceMean<axes = [2, 3], keepdims = 0>(x)", [], 13), ("y = ReduceMean(x, a)", [("a", i(2, 3))], 18),
    ("y = ReduceSum<keepdims = 0>(x, a)", [("a", i(-1))], 13), ("y = ReduceSum<axes = [1]>(x)", [], 11),
    ("y = ReduceMax<axes = [2]>(x)", [], 13),
    ("y = ReduceMin<axes = [2]>(x)", [], 13),
    ("y = ReduceL2<axes = [1]>(x)", [], 13),
    ("a = Flatten(x)\ny = Gemm<transB = 1>(a, w, b)", [("w", f(5, 256)), ("b", f(5))], 9),
    ("a = Flatten(x)\ny = Gemm<alpha = 0.5, beta = 2.0>(a, w, b)", [("w", f(256, 5)), ("b", f(1, 5))], 13),
    ("a = Flatten(x)\ny = Gemm(a, w)", [("w", f(256, 5))], 13),
    ("a = Flatten(x)\nc = MatMul(a, w)\ny = Add(c, b)", [("w", f(256, 5)), ("b", f(5))], 13),
    ("a = Flatten(x)\nc = MatMul(a, w)\ny = Add(b, c)", [("w", f(256, 5)), ("b", f(1, 5))], 13),
    ("c = MatMul(x, w)\ny = Add(b, c)", [("w", f(8, 5)), ("b", f(8, 5))], 13),
    ("t = Transpose<perm = [0, 1, 3, 2]>(x)\ny = MatMul(x, t)", [], 13),
    ("y = Reshape(x, s)", [("s", i(0, -1))], 9), ("y = Reshape(x, s)", [("s", i(-1, 256))], 13),
    ("y = Reshape(x, s)", [("s", i(0, 2, 2, 64))], 13), ("y = Reshape<allowzero = 1>(x, s)", [("s", i(-1, 256))], 14),
    ("a = Shape(x)\nb = Gather(a, z)\nc = Unsqueeze<axes = [0]>(b)\nd = Concat<axis = 0>(c, m)\ny = Reshape(x, d)",
     [("z", np.int64(0)), ("m", i(-1))], 11),
    ("a = Shape(x)\nb = Slice(a, z, o)\nd = Concat<axis = 0>(b, m)\ny = Reshape(x, d)",
     [("z", i(0)), ("o", i(1)), ("m", i(256))], 13),
    ("a = Shape<start = 0, end = 1>(x)\nd = Concat<axis = 0>(a, m)\ny = Reshape(x, d)", [("m", i(4, 64))], 15),
    ("a = Shape(x)\nb = ConstantOfShape(a)\ny = Add(x, b)", [], 13),
    ("a = Shape(x)\nb = Expand(c, a)\ny = Mul(x, b)", [("c", f(4, 1, 1))], 13),
    ("a = Cast<to = 1>(x)\nb = Dropout(a)\ny = Identity(b)", [], 13), ("y, mask = Dropout<ratio = 0.5>(x)", [], 9),
    ("a = ReduceMean<axes = [2]>(x)\ny = Squeeze<axes = [2]>(a)", [], 11),
    ("a = ReduceMean<axes = [2, 3]>(x)\ny = Squeeze(a, s)", [("s", i(2, 3))], 13),
    ("a = Unsqueeze(x, s)\ny = Squeeze(a, s)", [("s", i(1, -1))], 13),
    ("y = Transpose<perm = [0, 3, 1, 2]>(x)", [], 13), ("y = Concat<axis = 1>(x, x)", [], 13),
    ("a, b = Split<axis = 1>(x)\ny = Mul(a, b)", [], 11),
    ("a, b = Split<axis = 1>(x, s)\ny = Concat<axis = 1>(b, a)", [("s", i(1, 3))], 13),
    ("a, b, c = Split<axis = 1, num_outputs = 3>(x)\ny = Concat<axis = 1>(c, a)", [], 18),
    ("y = Slice<starts = [1, 0], ends = [3, -2], axes = [1, 3]>(x)", [], 9),
    ("y = Slice(x, s, e, a, t)", [("s", i(-1, 0)), ("e", i(-9, 8)), ("a", i(2, 3)), ("t", i(-1, 2))], 13),
    ("y = Pad<pads = [0, 0, 1, 2, 0, 1, 3, 0], value = 0.5>(x)", [], 9),
    ("y = Pad(x, p, v)", [("p", i(0, 0, 1, 2, 0, 0, 3, 0)), ("v", np.float32(-1))], 13),
    *((f'y = Pad<mode = "{mode}">(x, p)', [("p", i(0, 0, 1, 2, 0, 0, 3, 0))], 13) for mode in ("reflect", "edge")),
    ("y = Pad(x, p, , a)", [("p", i(1, 1)), ("a", i(3))], 18),
    ("y = Gather<axis = 2>(x, k)", [("k", i(3, -1))], 13), ("y = Gather<axis = 3>(x, k)", [("k", np.int64(1))], 13),
    ("a = Transpose<perm = [1, 2, 0, 3]>(x)\nb = GatherND(a, k)\ny = Transpose<perm = [1, 0, 2]>(b)",
     [("k", np.array([[0, 1], [3, -1]]))], 13),
    ("a = ScatterND(c, k, v)\ny = Mul(x, a)", [("c", f(8, 8)), ("k", np.array([[1], [3]])), ("v", f(2, 8))], 16),
    ("c = Greater(x, z)\nn = Neg(x)\ny = Where(c, x, n)", [("z", np.float32(0.2))], 13),
    ("y = Softmax(x)", [], 11),
    ("y = Softmax<axis = 1>(x)", [], 13),
    ("y = LogSoftmax(x)", [], 13),
    ("y = Softmax<axis = 2>(x)", [], 9),
    ("y = Resize(x, r, s)", [("r", f(0)), ("s", np.array([1, 1, 2, 2], np.float32))], 13),
    ('y = Resize<mode = "linear">(x, , s)', [("s", np.array([1, 1, 2, 1.5], np.float32))], 13),
    ('y = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(x, , , z)',
     [("z", i(1, 4, 12, 5))], 13),
    ('y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , s)',
     [("s", np.array([1, 1, 1.5, 2], np.float32))], 13),
    ('y = Resize<mode = "cubic">(x, , s)', [("s", np.array([1, 1, 2, 2], np.float32))], 13),
    ("y = Upsample(x, s)", [("s", np.array([1, 1, 2, 2], np.float32))], 9),
    ("y = DepthToSpace<blocksize = 2>(x)", [], 13), ('y = DepthToSpace<blocksize = 2, mode = "CRD">(x)', [], 13),
    ("y = SpaceToDepth<blocksize = 2>(x)", [], 13),
    ('y = Einsum<equation = "nchw,cd->ndhw">(x, w)', [("w", f(4, 3))], 13),
    ("y = Tile(x, r)", [("r", i(1, 2, 1, 1))], 13),
]  # fmt: skip


@pytest.mark.parametrize(("body", "tensors", "opset"), CASES, ids=range(len(CASES)))
def test_operator_against_onnx_runtime(body: str, tensors: list[tuple[str, Any]], opset: int, tmp_path: Path) -> None:
    for shape in ("N, 4, 8, 8", "1, 4, 8, 8"):
        model = small(body, *tensors, opset=opset, shape=shape, ir=10 if opset > 20 else 8)
        onnx.save(model, tmp_path / "t.onnx")
        content = onnx_graph.read(tmp_path / "t.onnx")
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        x = torch.from_numpy(f(3, 4, 8, 8))
        wanted = torch.cat([torch.from_numpy(session.run(None, {"x": one.numpy()})[0]) for one in x.split(1)])
        found = program(content)(x)
        assert program(content).part is None
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_matmul_and_add_are_one_linear_layer(tmp_path: Path) -> None:
    weight = f(256, 5)
    body = "a = Flatten(x)\nc = MatMul(a, w)\nd = Add(c, b)\ny = Softmax<axis = 1>(d)"
    onnx.save(small(body, ("w", weight), ("b", f(5))), tmp_path / "t.onnx")
    content = onnx_graph.read(tmp_path / "t.onnx")
    assert content.nodes is not None
    nodes, taken = without_softmax(content.nodes)
    assert taken and [n[2] for n in nodes if n[0] == "call"][-1] != "aten.softmax.int"
    with Observed() as observed:
        Program(nodes, content.tensors)(torch.randn(2, 4, 8, 8))
    assert observed.classifier is not None and torch.equal(observed.classifier.weight, torch.from_numpy(weight).T)


def test_channels_last_input(tmp_path: Path) -> None:
    """As tf2onnx writes Keras networks."""
    body = "a = Transpose<perm = [0, 3, 1, 2]>(x)\nb = Conv(a, w)\nc = ReduceMean<axes = [2, 3], keepdims = 0>(b)\n"
    body += "y = Softmax(c)"
    model = small(body, ("w", f(5, 3, 3, 3)), shape="N, 16, 12, 3")
    onnx.save(model, tmp_path / "t.onnx")
    content = onnx_graph.read(tmp_path / "t.onnx")
    assert content.size == (3, 16, 12)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(2, 3, 16, 12)
    held(content, lambda x: torch.from_numpy(session.run(None, {"x": x.detach().permute(0, 2, 3, 1).numpy()})[0]), x)


def test_softmax_inside_stays() -> None:
    nodes = [["input", "x"], ["call", "s", "aten.softmax.int", [{"node": "x"}, 1], {}],
             ["call", "y", "aten.mul.Tensor", [{"node": "s"}, {"node": "s"}], {}], ["output", "y"]]  # fmt: skip
    assert without_softmax(nodes) == (nodes, False)


@pytest.mark.parametrize("target", ["aten.softmax.int", "aten.log_softmax.int"])
def test_softmax_at_the_end_is_taken_off(target: str) -> None:
    nodes: list[Any] = [["input", "x"], ["call", "s", target, [{"node": "x"}, 1], {}],
             ["call", "v", "aten.flatten.using_ints", [{"node": "s"}, 1], {}],
             ["call", "y", "aten.clone.default", [{"node": "v"}], {}], ["output", "y"]]  # fmt: skip
    x = torch.randn(2, 3, 1, 1)
    for last in (5, 3):
        given = [*nodes[: last - 1], ["output", nodes[last - 2][1]]]
        found, taken = without_softmax(given)
        assert taken and torch.equal(Program(found, {})(x).flatten(1), x.flatten(1))


def test_class_names_from_metadata(tmp_path: Path) -> None:
    for key, text in (
        ("classes", '["a", "b"]'),
        ("names", "{0: 'a', 1: 'b'}"),
        ("labels", "['a', \"b\"]"),
        ("names", '{"1": "b", "0": "a"}'),
    ):
        model = small("y = ReduceMean<axes = [2, 3]>(x)", shape="N, 2, 8, 8")
        helper.set_model_props(model, {key: text})
        onnx.save(model, tmp_path / "t.onnx")
        assert onnx_graph.read(tmp_path / "t.onnx").classes == ("a", "b")
        helper.set_model_props(model, {key: '["a", "b", "c"]'})
        onnx.save(model, tmp_path / "t.onnx")
        content = onnx_graph.read(tmp_path / "t.onnx")
        assert content.classes is None and "2 logits" in content.notes[-1]


def test_half_precision_weights_and_inputs_listed_as_of_old(tmp_path: Path) -> None:
    weight = f(5, 4, 3, 3)
    model = small(
        "h = Cast<to = 10>(x)\nc = Conv(h, w)\ng = GlobalAveragePool(c)\ny = Cast<to = 1>(g)",
        ("w", weight.astype(np.float16)),
    )
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT16, weight.shape))
    onnx.save(model, tmp_path / "t.onnx")
    content = onnx_graph.read(tmp_path / "t.onnx")
    assert content.tensors["w"].dtype == torch.float32
    held(content, lambda x: nn.functional.conv2d(x, content.tensors["w"]).mean((2, 3)), torch.randn(3, 4, 8, 8))


def outside(location: str) -> onnx.ModelProto:
    model = small("y = Conv(x, w)", W)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return model


@pytest.mark.parametrize("kind", ["beside", "above", "absolute", "symlink", "hardlink", "attribute", "branch"])
def test_external_data_are_refused_and_not_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(W[1].tobytes())
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "symlink").symlink_to(secret)
    (folder / "hardlink").hardlink_to(secret)
    (folder / "beside").write_bytes(W[1].tobytes())
    location = {"above": "../secret", "absolute": str(secret)}.get(kind, kind)
    model = outside(location)
    if kind in ("attribute", "branch"):
        (tensor,) = model.graph.initializer
        node = helper.make_node("Constant", [], ["w"], value=tensor)
        if kind == "branch":
            inner = helper.make_graph(
                [node], "inner", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 4, 3, 3])]
            )
            node = helper.make_node("If", ["x"], ["w"], then_branch=inner, else_branch=inner)
        del model.graph.initializer[:]
        model.graph.node.insert(0, node)
    path = folder / "t.onnx"
    path.write_bytes(model.SerializeToString())
    opened: list[str] = []
    real = io.open

    def watched(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(file))
        return real(file, *args, **kwargs)

    before = secret.stat().st_atime_ns, (folder / "beside").stat().st_atime_ns
    monkeypatch.setattr(io, "open", watched)
    monkeypatch.setattr("builtins.open", watched)
    error = refused(lambda: onnx_graph.read(path))
    assert error.code == "E0328" and location in error.why
    assert set(opened) <= {str(path)}
    assert before == (secret.stat().st_atime_ns, (folder / "beside").stat().st_atime_ns)


def test_damaged_onnx(tmp_path: Path) -> None:
    whole = small("y = Conv(x, w)", W).SerializeToString()
    path, draw = tmp_path / "t.onnx", random.Random(0)
    for length in [*range(0, len(whole), len(whole) // 60)]:
        path.write_bytes(whole[:length])
        refused(lambda: onnx_graph.read(path))
    for _ in range(100):
        path.write_bytes(draw.randbytes(draw.randrange(1, 400)))
        refused(lambda: onnx_graph.read(path))
    for _ in range(100):
        bits = bytearray(whole)
        bits[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(bits)
        try:
            onnx_graph.read(path)
        except TeacherError as error:
            assert error.exit_code == 3
    mixed = small("y = Conv(x, w)", W)
    mixed.graph.initializer[0].name, mixed.graph.node[0].attribute.add().name = (
        "w",
        "pads",
    )  # an attribute without a value
    path.write_bytes(mixed.SerializeToString())
    refused(lambda: onnx_graph.read(path))


def cyclic() -> onnx.ModelProto:
    model = small("y = Relu(x)")
    model.graph.node[0].input[0] = model.graph.output[0].name
    return model


def huge() -> onnx.ModelProto:
    model = small("y = Conv(x, w)", W)
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 20, 3, 3]
    return model


def functions() -> onnx.ModelProto:
    model = small("y = Relu(x)")
    made = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 13)]
    )
    model.functions.append(made)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].op_type, model.graph.node[0].domain = "F", "own"
    return model


def branch(kind: str) -> onnx.ModelProto:
    model = small("y = Relu(x)")
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "inner", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    bodies = {"then_branch": inner, "else_branch": inner} if kind == "If" else {"body": inner}
    model.graph.node.insert(0, helper.make_node(kind, ["x"], ["unused"], **bodies))
    return model


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        (cyclic, "E0326", "topologically"),
        (huge, "E0326", "overflow"),
        (functions, "E0329", "F"),
        (lambda: branch("If"), "E0329", "If"),
        (lambda: branch("Loop"), "E0329", "Loop"),
        (lambda: small("q = QuantizeLinear(x, s, z)\ny = DequantizeLinear(q, s, z)",
                       ("s", np.float32(0.1)), ("z", np.uint8(3))),
         "E0329", "gradients"),
        (lambda: small("a = ArgMax<axis = 1>(x)\ny = Cast<to = 1>(a)"), "E0322", "ArgMax"),
        (lambda: small("y = NonZero(x)"), "E0322", "NonZero"),
        (lambda: small("y = Expand(x, s)", ("s", i(1, 4, 1 << 30, 1))), "E0327", "Expand"),
        (lambda: small("a = Expand(c, s)\ny = Add(x, a)",
                       ("c", f(1, 1, 1, 1)), ("s", i(1, 1 << 20, 1 << 20, 8))), "E0327", "elements"),
        (lambda: small("y = Conv(x, w)", ("w", f(6, 5, 3, 3))), "E0327", "Conv"),
        (lambda: small("y = Relu(x)", shape="N, 4"), "E0327", "(N, C, H, W)"),
        (lambda: small("y = Relu(x)", shape="1073741824, 4, 8, 8"), "E0327", "batch"),
        (lambda: small("y = Relu(x)", shape="1, 4, 1000000, 1000000"), "E0327", ""),
    ],
)  # fmt: skip
def test_refused_graphs(model: Callable[[], onnx.ModelProto], code: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    path.write_bytes(model().SerializeToString())
    error = refused(lambda: onnx_graph.read(path))
    assert error.code == code and words in error.what + error.why
