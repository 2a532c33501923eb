"""YAML of plain values, as configurations are written in: nothing in it is a reference, or runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Values that occur twice are written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(yaml.SafeLoader):
    """Each value is written out where it stands, by one name, and is of a size to count with."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors (&) and aliases (*) are not read; write the values out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        values = super().construct_mapping(node, deep)
        if len(values) < len(node.value):
            raise yaml.MarkedYAMLError(problem="a name is given twice", problem_mark=node.start_mark)
        return values

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            raise yaml.MarkedYAMLError(problem="a number is too large", problem_mark=node.start_mark)
        return int(value)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def dump(values: Mapping[str, Any]) -> str:
    """The text of plain values."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


def load(text: str) -> dict[str, Any]:
    """The plain values that a text names.

    Raises:
        ValueError: it is no YAML mapping of them, and why; its message may have several lines.
    """
    try:
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError("it holds no names with values")
    return values
