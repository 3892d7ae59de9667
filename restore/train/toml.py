"""TOML files to dataclasses and back, and the comparison of two configurations."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from restore.errors import InputError

T = TypeVar("T")
NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def read(path: str | Path, cls: type[T]) -> T:
    """Read a TOML file into the dataclass `cls`. Raises InputError naming the key, the file and the nearest key."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from None
    return build(cls, table, "", str(path))


def build(cls: type[T], table: dict[str, Any], where: str, file: str) -> T:
    """A dataclass from a TOML table; `where` is the dotted name of the table in `file`, with a dot at its end."""
    known, entries = typing.get_type_hints(cls), dataclasses.fields(cls)
    hints = {entry.name: known[entry.name] for entry in entries}
    for key in table:
        if key not in hints:
            raise InputError(f"{file}: unknown key {where + key!r}{nearest(key, hints)}")
    values = {key: _convert(value, hints[key], where + key, file) for key, value in table.items()}
    for entry in entries:
        optional = entry.default is not dataclasses.MISSING or entry.default_factory is not dataclasses.MISSING
        if not optional and entry.name not in values:
            raise InputError(f"{file}: {where + entry.name!r} is missing")
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{file}: {f'[{where[:-1]}] ' if where else ''}{error}") from None


def nearest(key: str, known: Iterable[str]) -> str:
    """': did you mean ...?' for a misspelt key, or the list of those known."""
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(known)}"


def _convert(value: Any, hint: Any, name: str, file: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _union(value, args, name, file)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, str) and hasattr(hint, "from_text"):
            return hint.from_text(value)
        _expect(isinstance(value, dict), value, "a table", name, file)
        return build(hint, value, f"{name}.", file)
    if origin is list:
        _expect(isinstance(value, list), value, "a list", name, file)
        return [_convert(item, args[0], f"{name}[{i}]", file) for i, item in enumerate(value)]
    if origin is tuple:
        _expect(isinstance(value, list) and len(value) == len(args), value, f"a list of {len(args)}", name, file)
        kinds = enumerate(zip(value, args, strict=True))
        return tuple(_convert(item, kind, f"{name}[{i}]", file) for i, (item, kind) in kinds)
    if origin is dict:
        _expect(isinstance(value, dict), value, "a table", name, file)
        return value
    if hint is float and type(value) is int:
        return float(value)
    _expect(type(value) is hint, value, NAMES[hint], name, file)
    return value


def _union(value: Any, kinds: tuple[Any, ...], name: str, file: str) -> Any:
    wanted = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _convert(value, kind, name, file)
            except InputError as error:
                wanted.append(str(error).rpartition(": give ")[2])
    raise InputError(f"{file}: {name!r} is {value!r}: give {' or '.join(wanted)}")


def _expect(condition: bool, value: Any, wanted: str, name: str, file: str) -> None:
    if not condition:
        raise InputError(f"{file}: {name!r} is {value!r}: give {wanted}")


def write(table: dict[str, Any]) -> str:
    """A configuration as TOML; keys without a value (None) are left out."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = _lines(plain)
    for name, section in table.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]", *_lines(section)]
    return "\n".join(lines)


def _lines(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(_lines(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def completed(table: dict[str, Any], cls: type) -> dict[str, Any]:
    """A configuration of `cls` that an older version wrote, with the defaults of the keys that it did not know."""
    known, out = typing.get_type_hints(cls), dict(table)
    for entry in dataclasses.fields(cls):
        if entry.name in table:
            out[entry.name] = _completed(table[entry.name], known[entry.name])
        elif entry.default is not dataclasses.MISSING:
            out[entry.name] = entry.default
        elif entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
            out[entry.name] = dataclasses.asdict(default) if dataclasses.is_dataclass(default) else default
    return out


def _completed(value: Any, hint: Any) -> Any:
    if isinstance(value, list | tuple) and typing.get_origin(hint) is list:
        return [_completed(item, typing.get_args(hint)[0]) for item in value]
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
    return completed(value, kinds[0]) if isinstance(value, dict) and kinds else value


def difference(old: dict[str, Any], new: dict[str, Any], free: Iterable[str] = ()) -> str | None:
    """The first key that differs, as 'key (x there, y here)'; not those `free`, nor where a source's path lies."""
    old, new, free = _flat(old), _flat(new), tuple(free)
    for key in sorted(old.keys() | new.keys()):
        may = any(key == name or key.startswith(f"{name}.") for name in free)
        if not may and old.get(key) != new.get(key):
            return f"{key} ({old.get(key)!r} there, {new.get(key)!r} here)"
    return None


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = ((str(i), item) for i, item in enumerate(value))
    else:
        found = isinstance(value, str) and name.endswith((".path", ".condition"))
        return {name: Path(value).name if found else value}
    return {k: v for key, item in items for k, v in _flat(item, f"{name}.{key}" if name else str(key)).items()}
