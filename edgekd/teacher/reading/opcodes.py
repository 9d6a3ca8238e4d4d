"""A pickle read as data: lists, dictionaries, numbers and stubs. Nothing is imported or called that a file names.

pickletools of the standard library splits a stream into opcodes; here they are put together to values. What a pickle
would import becomes a Name, what it would call a Call. That is enough for TorchScript archives, whose weights lie in
such streams, and for saying what a refused file would have run.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

NAMING = ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")


@dataclass(frozen=True)
class Name:
    """Something that the pickle asks to be imported: "module.name"."""

    path: str


@dataclass
class Call:
    """What calling `function` would have given, with the items and the state that the pickle adds to it."""

    function: Any  # a Name; in a hostile file anything
    args: Any = ()
    state: Any = None  # the argument of BUILD
    items: dict[Any, Any] = field(default_factory=dict)
    members: list[Any] = field(default_factory=list)


class Malformed(ValueError):
    """The stream is no pickle, or one that ends early."""


_MARK = object()


def value(stream: IO[bytes], persistent: Callable[[Any], Any], asked: dict[str, None] | None = None) -> Any:
    """The value of the next pickle in `stream`, which is left behind its end.

    persistent: gives the value of a persistent id; torch keeps a tensor's storage there. asked: filled, as far as the
    stream is whole, with what the pickle asks to import, in order. STACK_GLOBAL takes the name from the stack, so it is
    followed through the memo; EXT codes are entries of a registry: "copyreg extension 7". Raises Malformed.
    """
    machine = Machine(persistent)
    for opcode, argument in operations(stream):
        machine.step(opcode, argument)
        if asked is not None and opcode in NAMING:
            made = machine.stack[-1]
            asked[(made.function if isinstance(made, Call) else made).path] = None
    if len(machine.stack) != 1 or machine.stack[0] is _MARK:
        raise Malformed("the stream ends with more or less than one value")
    return machine.stack[0]


def operations(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Opcode names and arguments up to STOP. Raises Malformed."""
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode.name, argument
    except (ValueError, OverflowError, MemoryError) as error:  # UnicodeDecodeError is a ValueError
        raise Malformed(str(error)) from error


class Machine:
    """The pickle machine's stack and memo. Each step makes at most one value, so memory grows with the file alone."""

    def __init__(self, persistent: Callable[[Any], Any]) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.persistent = persistent

    def step(self, opcode: str, argument: Any) -> None:
        """Carries one opcode out. Raises Malformed where stack, memo or types do not allow it."""
        if opcode in ("PROTO", "FRAME", "STOP"):
            return
        if opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _NAMED:
            _NAMED[opcode](self, argument)
        else:
            raise Malformed(f"it uses the opcode {opcode}")

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed("an opcode finds too few values on the stack")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed("an opcode finds no value on the stack")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        """The values above the last mark; mark and values are taken off."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise Malformed("an opcode finds no mark on the stack")

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise Malformed(f"memo entry {index} is not there")
        self.stack.append(self.memo[index])

    def extend(self, values: list[Any]) -> None:
        """APPEND, APPENDS and ADDITEMS: to a list, a set (read as a list) or a stub."""
        target = self.top()
        if isinstance(target, Call):
            target.members.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise Malformed(f"items are added to a {type(target).__name__}")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        items = target.items if isinstance(target, Call) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise Malformed(f"entries are set in a {type(target).__name__}")
        for key, item in zip(values[::2], values[1::2], strict=True):
            items[_key(key)] = item

    def name(self, module: Any, name: Any) -> None:
        whole = isinstance(module, str) and isinstance(name, str)
        self.stack.append(Name(f"{module}.{name}" if whole else "a computed name"))

    def call(self, function: Any, args: Any) -> None:
        self.stack.append(Call(function, args))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict | list | Name):
            raise Malformed(f"a state is given to a {type(target).__name__}")


def _key(key: Any) -> Any:
    """A dictionary's key as it is where hashing it is cheap; nested tuples would be hashed in exponential time."""
    return key if key is None or isinstance(key, str | int | float | bytes) else f"{type(key).__name__} {id(key):x}"


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _inst(machine: Machine, argument: str) -> None:
    args = machine.marked()
    machine.call(Name(argument.replace(" ", ".", 1)), tuple(args))


def _obj(machine: Machine, _: Any) -> None:
    args = machine.marked()
    if not args:
        raise Malformed("OBJ finds no class")
    machine.call(args[0], tuple(args[1:]))


def _reduce(machine: Machine, _: Any) -> None:
    args, function = machine.pop(), machine.pop()
    machine.call(function, args)


def _newobj_ex(machine: Machine, _: Any) -> None:
    machine.pop()  # keyword arguments: no class whose values we read has any
    _reduce(machine, None)


def _setitem(machine: Machine, _: Any) -> None:
    item, key = machine.pop(), machine.pop()
    machine.set_items([key, item])


def _dict(machine: Machine, _: Any) -> None:
    values = machine.marked()
    machine.stack.append({})
    machine.set_items(values)


def _pop(machine: Machine, _: Any) -> None:
    if not machine.stack:
        raise Malformed("POP finds nothing on the stack")
    machine.stack.pop()  # a mark too: POP doubles as POP_MARK in protocol 0


def _persid(machine: Machine, argument: str) -> None:
    machine.stack.append(machine.persistent(argument))


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "MARK": lambda: _MARK,
}
_LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"),
        *("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE", "BINUNICODE8"),
    }
)
_NAMED: dict[str, Callable[[Machine, Any], None]] = {
    "POP": _pop,
    "POP_MARK": lambda machine, _: (machine.marked(), None)[1],
    "DUP": lambda machine, _: machine.stack.append(machine.top()),
    "PUT": Machine.put,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GET": Machine.get,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.stack.append(machine.marked()),
    "DICT": _dict,
    "FROZENSET": lambda machine, _: machine.stack.append(machine.marked()),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.marked()),
    "SETITEM": _setitem,
    "SETITEMS": lambda machine, _: machine.set_items(machine.marked()),
    "GLOBAL": lambda machine, argument: machine.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "INST": _inst,
    "OBJ": _obj,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _newobj_ex,
    "BUILD": lambda machine, _: machine.build(),
    "EXT1": lambda machine, code: machine.stack.append(Name(f"copyreg extension {code}")),
    "EXT2": lambda machine, code: machine.stack.append(Name(f"copyreg extension {code}")),
    "EXT4": lambda machine, code: machine.stack.append(Name(f"copyreg extension {code}")),
    "PERSID": _persid,
    "BINPERSID": lambda machine, _: machine.stack.append(machine.persistent(machine.pop())),
}
