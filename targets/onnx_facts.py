"""The few facts about an ONNX file that trtexec must be told: its input, and which types it computes in.

Boards have no onnx package. The file is Protocol Buffers; of its fields (onnx/onnx.proto) six are read here.
"""

from typing import Any, Dict, Iterator, List, Tuple

from .setting import EXIT_INPUT, Refused

TYPES = {1: "float32", 2: "uint8", 10: "float16"}  # TensorProto.DataType, those that a graph's input may have
FLOAT16 = 10
MODEL_GRAPH, GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, NODE_OPERATOR = 7, 1, 5, 11, 4
TENSOR_TYPE, TENSOR_NAME, VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT = 2, 8, 1, 2, 1, 1


def facts_of(graph: bytes) -> Dict[str, Any]:
    """Of a file's bytes: the "input"'s name, its "type", and whether it computes in "half" or is "quantised"."""
    try:
        inputs: List[Tuple[str, int]] = []
        weights: Dict[str, int] = {}
        operators = set()
        for message in _messages(memoryview(graph), MODEL_GRAPH):
            for number, value in _fields(message):
                if number == GRAPH_INPUT and isinstance(value, memoryview):
                    inputs.append(_value(value))
                elif number == GRAPH_INITIALIZER and isinstance(value, memoryview):
                    name, kind = _tensor(value)
                    weights[name] = kind
                elif number == GRAPH_NODE and isinstance(value, memoryview):
                    operators |= {bytes(m).decode("utf-8") for m in _messages(value, NODE_OPERATOR)}
    except (ValueError, IndexError) as error:
        raise Refused("the graph is no ONNX file: %s" % error, EXIT_INPUT)
    fed = [(name, kind) for name, kind in inputs if name not in weights]  # up to IR 3 weights are inputs too
    if len(fed) != 1 or fed[0][1] not in TYPES:
        raise Refused("the graph has the inputs %s; the runner feeds one, of pixels" % fed, EXIT_INPUT)
    return {
        "input": fed[0][0],
        "type": TYPES[fed[0][1]],
        "half": FLOAT16 in weights.values(),
        "quantised": "QuantizeLinear" in operators,
    }


def _value(message: memoryview) -> Tuple[str, int]:
    """(name, element type) of a ValueInfoProto."""
    names = [bytes(m).decode("utf-8") for m in _messages(message, VALUE_NAME)]
    kinds = [
        value
        for type_ in _messages(message, VALUE_TYPE)
        for tensor in _messages(type_, TYPE_TENSOR)
        for number, value in _fields(tensor)
        if number == TENSOR_ELEMENT and isinstance(value, int)
    ]
    return (names[-1] if names else "", kinds[-1] if kinds else 0)


def _tensor(message: memoryview) -> Tuple[str, int]:
    """(name, element type) of a TensorProto."""
    name, kind = "", 0
    for number, value in _fields(message):
        if number == TENSOR_NAME and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8")
        elif number == TENSOR_TYPE and isinstance(value, int):
            kind = value
    return name, kind


def _messages(data: memoryview, wanted: int) -> List[memoryview]:
    return [value for number, value in _fields(data) if number == wanted and isinstance(value, memoryview)]


def _fields(data: memoryview) -> Iterator[Tuple[int, Any]]:
    """(number, value) of each field of a message: an integer, or the bytes of a string or message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire in (1, 5):  # eight or four bytes, a number that nobody here asks for
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("it ends within a field")
            yield number, data[at : at + size]
            at += size
        else:
            raise ValueError("a field has the unknown kind %d" % wire)


def _varint(data: memoryview, at: int) -> Tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]  # IndexError: the file ends here
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")
