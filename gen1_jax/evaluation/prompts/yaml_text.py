"""Writes YAML."""

from typing import Any


def write_yaml(content: Any) -> str:
    """Returns plain values as the text of a YAML file, in their order."""
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10**6)
