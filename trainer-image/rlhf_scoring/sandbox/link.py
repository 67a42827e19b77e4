"""Between hidden tests and the code that they test: two processes, one socket, values instead of objects.

Numbers, texts and the built-in containers of them go over as copies. Anything else stays where it is, and the other
side gets a stand-in that asks for every call. So what the code says can't be more than a value: an object of its own
that claims to equal everything is compared here, in the tests' process, and equals nothing.
"""

import builtins
import operator
import socket
from collections.abc import Callable, Mapping
from typing import Any

from . import frames

MESSAGE_BYTES = 16 * 1024 * 1024
_SMALL = 1 << 53
_TEXT = 2_000
_CONTAINERS: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}

Operations = Mapping[str, Callable[..., Any]]

_BOTH = ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "and_", "or_", "xor")
CODE_OPERATIONS: Operations = {
    "call": lambda function, *args, **options: function(*args, **options),
    "get": getattr,
    "set": setattr,
    "item": operator.getitem,
    "set_item": operator.setitem,
    "delete_item": operator.delitem,
    "len": len,
    "iter": iter,
    "next": next,
    "bool": bool,
    "str": str,
    "repr": repr,
    "hash": hash,
    "isinstance": isinstance,
    "enter": lambda context: type(context).__enter__(context),
    "exit": lambda context: type(context).__exit__(context, None, None, None),
    **{name: getattr(operator, name) for name in _BOTH},
}
"""What tests may ask of the code's objects."""
TEST_OPERATIONS: Operations = {"call": CODE_OPERATIONS["call"]}
"""What the code may ask of functions that a test handed to it: nothing that would lead to the test."""


class LinkError(Exception):
    """The other side is gone, or says what is no message."""


class CodeRaised(Exception):
    """The code raised something that is no built-in exception."""


class Link:
    """One end."""

    def __init__(self, connection: socket.socket, operations: Operations) -> None:
        self._connection = connection
        self._operations = operations
        self._buffer = bytearray()
        self._objects: list[object] = []
        self._places: dict[int, int] = {}
        self._remotes: dict[int, Remote] = {}
        self._exceptions: dict[str, type[Exception]] = {}

    def ask(self, operation: str, *args: Any, **options: Any) -> Any:
        """Have the other side do something, and answer what it asks meanwhile. Raises what it raised, or LinkError."""
        sent = [self._encode(each) for each in args]
        self._send({"do": operation, "args": sent, "options": {k: self._encode(v) for k, v in options.items()}})
        while "do" in (message := self._receive()):
            self._send(self._answer(message))
        if "raised" in message:
            raise self._exception(_texts(message["raised"]))(str(message.get("text", ""))[:_TEXT])
        for old, new in zip(args, message.get("args", ()), strict=False):
            _take_over(old, self._decode(new))
        return self._decode(message.get("value"))

    def serve(self) -> None:
        """Answer until the other side is gone."""
        while True:
            self._send(self._answer(self._receive()))

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            args = [self._decode(each) for each in message["args"]]
            options = {str(name): self._decode(value) for name, value in message["options"].items()}
            value = self._encode(self._operations[message["do"]](*args, **options))
            after = [self._encode(each) for each in args]
        except BaseException as error:
            return {"raised": _names(type(error)), "text": str(error)[:_TEXT]}
        # Code that sorts a list in place has sorted the test's.
        return {"value": value, "args": after} if after != message["args"] else {"value": value}

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._connection.sendall(frames.encode(message, MESSAGE_BYTES))
        except frames.FrameError as error:
            raise ValueError(str(error)) from error
        except OSError as error:
            raise LinkError("the other side is gone") from error

    def _receive(self) -> dict[str, Any]:
        try:
            message = frames.receive(self._connection, self._buffer, MESSAGE_BYTES)
        except (OSError, frames.FrameError) as error:
            raise LinkError(str(error)) from error
        if message is None:
            raise LinkError("the other side is gone")
        return message

    def _encode(self, value: Any) -> Any:
        """JSON of a value. Subclasses count as what they are made of: a Counter is a dict, an IntEnum a number."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Remote):
            return {"yours": value._Remote__at}
        if isinstance(value, int):
            number = int.__index__(value)
            return number if abs(number) < _SMALL else {"int": hex(number)}
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, bytes | bytearray):
            return {"bytes": bytes(value).hex()}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, list):
            return [self._encode(each) for each in list.__iter__(value)]
        if isinstance(value, dict):
            return {"dict": [[self._encode(key), self._encode(each)] for key, each in dict.items(value)]}
        for name, kind in _CONTAINERS.items():
            if isinstance(value, kind):  # type: ignore[arg-type]
                return {name: [self._encode(each) for each in kind.__iter__(value)]}  # type: ignore[attr-defined]
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"exception": _names(value)}
        return {"theirs": self._place(value)}

    def _place(self, value: object) -> int:
        if id(value) not in self._places:
            self._places[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._places[id(value)]

    def _decode(self, value: Any) -> Any:
        """Raises LinkError for what no honest side sends."""
        try:
            return self._decoded(value)
        except (TypeError, ValueError, IndexError, RecursionError, OverflowError) as error:
            raise LinkError("a message that can't be read") from error

    def _decoded(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decoded(each) for each in value]
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind in _CONTAINERS:
            return _CONTAINERS[kind](self._decoded(each) for each in inner)
        match kind:
            case "dict":
                return {self._decoded(key): self._decoded(each) for key, each in inner}
            case "int":
                return int(inner, 16)
            case "bytes":
                return bytes.fromhex(inner)
            case "complex":
                return complex(*inner)
            case "exception":
                return self._exception(_texts(inner))
            case "yours":
                return self._objects[inner]
            case "theirs":
                return self._remotes.setdefault(int(inner), Remote(self, int(inner)))
        raise ValueError(kind)

    def _exception(self, names: list[str]) -> type[Exception]:
        """The class of the same name: built in, or one of our making below the nearest that is."""
        for at, name in enumerate(names):
            known = getattr(builtins, name, None)
            if isinstance(known, type) and issubclass(known, Exception):
                for own in reversed(names[:at]):
                    known = self._exceptions.setdefault(own, type(own, (known,), {}))
                return known
        return CodeRaised


class Remote:
    """Stands for an object on the other side."""

    __slots__ = ("__at", "__link")

    def __init__(self, link: Link, at: int) -> None:
        object.__setattr__(self, "_Remote__link", link)
        object.__setattr__(self, "_Remote__at", at)

    def __getattr__(self, name: str) -> Any:
        return self.__link.ask("get", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self.__link.ask("set", self, name, value)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call it there."""
        return self.__link.ask("call", self, *args, **options)

    def __getitem__(self, key: Any) -> Any:
        return self.__link.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__link.ask("set_item", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self.__link.ask("delete_item", self, key)

    def __len__(self) -> int:
        return int(self.__link.ask("len", self))

    def __iter__(self) -> Any:
        return self.__link.ask("iter", self)

    def __next__(self) -> Any:
        return self.__link.ask("next", self)

    def __bool__(self) -> bool:
        return bool(self.__link.ask("bool", self))

    def __str__(self) -> str:
        return str(self.__link.ask("str", self))

    def __repr__(self) -> str:
        return str(self.__link.ask("repr", self))

    def __hash__(self) -> int:
        return int(self.__link.ask("hash", self))

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Remote) and self.__link.ask("isinstance", instance, self) is True

    def __enter__(self) -> Any:
        return self.__link.ask("enter", self)

    def __exit__(self, *_: object) -> None:
        self.__link.ask("exit", self)

    def __contains__(self, value: object) -> bool:
        # Looked for here: the code is never shown what a test expects.
        return any(each is value or each == value for each in self)


def _binary(name: str) -> Callable[[Remote, object], Any]:
    def between(self: Remote, other: object) -> Any:
        # With a value of the test's the code would learn what is expected, and could answer accordingly.
        if not isinstance(other, Remote):
            return NotImplemented
        return self._Remote__link.ask(name, self, other)

    return between


for _name in _BOTH:
    setattr(Remote, f"__{_name.rstrip('_')}__", _binary(_name))


def _names(kind: type[BaseException]) -> list[str]:
    return [each.__name__ for each in kind.__mro__ if issubclass(each, BaseException)]


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list):
        raise LinkError("a message that can't be read")
    return [str(each)[:_TEXT] for each in values[:64]]


def _take_over(old: object, new: object) -> None:
    """Give a container of the test the content that the code gave its copy."""
    if isinstance(old, list) and isinstance(new, list):
        old[:] = new
    elif (isinstance(old, dict) and isinstance(new, dict)) or (isinstance(old, set) and isinstance(new, set)):
        old.clear()
        old.update(new)
