"""What TensorRT's ONNX parser takes, by version: a table in our words, each rule with where it was read.

"onnx-tensorrt BRANCH" is the repository onnx/onnx-tensorrt, "NvInfer.h BRANCH" include/NvInfer.h of NVIDIA/TensorRT;
11.1 is the commit 7c51a63 that NVIDIA/TensorRT main names as its parser, 10.6 is 0137504, 10.15 is fa5aa9f.
"""

from __future__ import annotations

Version = tuple[int, ...]

# newest opset, from the first lines of docs/operators.md of each branch; 11.5: NVIDIA/TensorRT releases, v11.5
OPSETS: dict[Version, int] = {
    (8, 2): 13, (8, 4): 17, (8, 5): 17, (8, 6): 17, (9, 3): 19, (10, 0): 20, (10, 1): 20, (10, 6): 22,
    (10, 15): 24, (11, 1): 24, (11, 5): 25,
}  # fmt: skip
OPSET_SOURCE = "onnx-tensorrt {}: docs/operators.md"

# operators by the version whose table first has them; none was taken out again
OPERATORS: dict[Version, str] = {
    (8, 2): "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu "
    "Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout "
    "Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool "
    "GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If InstanceNormalization IsNaN LRN "
    "LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg "
    "NonMaxSuppression Not Or PRelu Pad Pow QuantizeLinear RNN RandomUniform RandomUniformLike Range ReduceL1 ReduceL2 "
    "ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape "
    "Resize ReverseSequence Round Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice "
    "Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose "
    "Unsqueeze Upsample Where",
    (8, 4): "HardSwish RandomNormal RandomNormalLike Reciprocal Shrink Xor",
    (8, 5): "GridSample MeanVarianceNormalization Mod NonZero OneHot RoiAlign Trilu",
    (8, 6): "GroupNormalization IsInf LayerNormalization",
    (9, 3): "CastLike Hardmax",
    (10, 0): "Gelu Mish",
    (10, 1): "DeformConv",
    (10, 6): "BlackmanWindow HammingWindow HannWindow STFT",
    (10, 15): "Attention RMSNormalization RotaryEmbedding",
}

# operators whose data may be integers (INT64 becomes INT32 before 9), by the version whose table first says so
INTEGERS: dict[Version, str] = {
    (8, 2): "Abs Add Cast Concat Constant ConstantOfShape DepthToSpace Div Equal Expand EyeLike Flatten Gather "
    "GatherElements GatherND Greater GreaterOrEqual Identity If IsNaN Less LessOrEqual Loop Max Mean Min Mul Neg Pad "
    "Range Reshape Scatter ScatterElements ScatterND Shape Sign Size Slice SpaceToDepth Split Squeeze Sub Sum Tile "
    "Transpose Unsqueeze Where",
    (8, 4): "Shrink",
    (8, 5): "Mod OneHot Trilu",
    (8, 6): "ArgMax ArgMin ReverseSequence TopK",
    (9, 3): "CastLike Relu ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare",
    (10, 0): "Gelu",
}
TABLE = "onnx-tensorrt {}: docs/operators.md, support matrix"

# inputs that must be constants: operator -> place of the input
CONSTANT_INPUTS: dict[str, int] = {"CumSum": 1, "Squeeze": 1, "Unsqueeze": 1}
CONSTANT_AXES = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
                 "ReduceProd", "ReduceSum", "ReduceSumSquare")  # fmt: skip

RESIZE = {  # since 8.0
    "coordinate_transformation_mode": ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric",
                                       "align_corners"),
    "mode": ("nearest", "linear"),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
}  # fmt: skip

FIRST_UINT8: Version = (8, 5)  # as a network's input or output, and nowhere between
UINT8_SOURCE = "onnx-tensorrt: docs/Changelog.md, 8.5 GA; ModelImporter.cpp 8.6-GA"
UINT8_CAST = "onnx-tensorrt 8.5-GA: builtin_op_importers.cpp, Cast"
FIRST_INT64: Version = (9,)
INT64_SOURCE = "onnx-tensorrt: docs/Changelog.md, 9.0 EA; docs/operators.md 8.2-GA to 8.6-GA"

PAIR_INPUTS = "onnx-tensorrt 8.2-GA to 8.6-GA: builtin_op_importers.cpp, QuantDequantLinearHelper"
FIRST_WITHOUT_ZERO_POINT: Version = (9, 3)
PAIR_ZERO = "onnx-tensorrt {}: docs/operators.md, QuantizeLinear and DequantizeLinear"
PAIR_SCALE = "NvInfer.h release/8.2 to release/10.3: IQuantizeLayer and IDequantizeLayer"
PAIR_SCALE_FP32 = "onnx-tensorrt 8.2-GA to 8.6-GA: builtin_op_importers.cpp reads a constant scale as float"
FIRST_SCALE_FP16: Version = (9, 3)
PAIR_INT8 = "NvInfer.h release/8.2 to release/10.3: IDequantizeLayer takes signed 8-bit integers"
PAIR_CHANNEL = "NvInfer.h release/8.2 to release/10.3: IQuantizeLayer, per channel for weights only, K is dimension 0"
PAIR_INPUT_FP32 = "NvInfer.h release/8.2: IQuantizeLayer takes fp32; release/8.5: or fp16"
FIRST_PAIR_FP16: Version = (8, 5)
FIRST_STORED_INT8: Version = (10, 0)
STORED_INT8 = (
    "microsoft/onnxruntime#11535 (TensorRT 8: invalid weights type of Int8); TensorRT documentation, explicit "
    "quantization, quantized weights"
)


def rules_version(version: Version) -> Version:
    """The newest version of OPSETS that is not newer than `version`, else the oldest: whose rules hold for it."""
    return max((known for known in OPSETS if known <= version), default=min(OPSETS))


def collected(table: dict[Version, str], version: Version) -> set[str]:
    """All names of a table up to a version."""
    return {name for since, names in table.items() if since <= version for name in names.split()}


def branch(version: Version) -> str:
    """Of onnx/onnx-tensorrt, that the tables of a version were read on."""
    commits: dict[Version, str] = {
        (10, 6): "0137504",
        (10, 15): "fa5aa9f",
        (11, 1): "7c51a63",
        (9, 3): "9.3",
        (11, 5): "7c51a63",
    }
    return commits.get(version, f"{'.'.join(map(str, version))}-GA")
