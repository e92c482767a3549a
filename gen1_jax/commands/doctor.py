"""Say what this machine and this installation have, in one screen: for bug reports.

    gen1 doctor
    gen1 doctor --json

It prints versions, devices, free memory, disk, extras, codecs, the cache of compiled programs and
the environment variables that matter. It names no file of yours and no secret, and always ends
with exit code 0: what is out of order is a line of the report.
"""

import json
from pathlib import Path
from typing import Any

HELP = "versions, devices, memory, extras, codecs: for bug reports"


def add_arguments(parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")


def run(args) -> None:
    from gen1_jax.machine import examine

    found = examine()
    print(json.dumps(found) if args.json else table(found))


def table(found: dict[str, Any]) -> str:
    """Returns the report of `gen1_jax.machine.examine` as lines of text."""
    rows = []
    for topic, value in found.items():
        if isinstance(value, dict) and set(value) == {"error"}:
            rows.append((topic, f"not found out: {value['error']}"))
        elif topic in ("notes", "gpu driver", "refused releases"):
            rows += [(topic, line) for line in value]
        else:
            rows.append((topic, _FORMATS.get(topic, _plain)(value) or "none"))
    home = str(Path.home())
    width = max(len(topic) for topic, _ in rows) + 2
    return "\n".join(f"{topic:<{width}}{text.replace(home, '~')}" for topic, text in rows)


# ---- how a topic is printed


def _plain(value: Any) -> str:
    return ", ".join(map(str, value.values() if isinstance(value, dict) else value))


def _libraries(value: dict) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in value.items())


def _devices(value: dict) -> str:
    return ", ".join(
        f"{entry['count']} x {name}" + (f" ({_memory(entry)} each)" if "bytes" in entry else "")
        for name, entry in value.items()
    )


def _memory(value: dict) -> str:
    place = f" in {value['folder']}" if "folder" in value else ""
    return f"{_size(value['free_bytes'])} of {_size(value['bytes'])} free{place}"


def _extras(value: dict) -> str:
    texts = []
    for extra, versions in value.items():
        whole = all(versions.values())
        texts.append(f"{extra} {next(iter(versions.values())) if whole else 'no'}")
    return ", ".join(texts)


def _codecs(value: dict) -> str:
    return "; ".join(
        f"{use} " + ", ".join(name if there else f"no {name}" for name, there in names.items())
        for use, names in value.items()
    )


def _programs(value: dict) -> str:
    return f"{value['files']} files, {_size(value['bytes'])} in {value['folder']}"


def _environment(value: dict) -> str:
    return ", ".join(f"{name}={text}" for name, text in value.items())


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"


_FORMATS = {
    "libraries": _libraries,
    "devices": _devices,
    "memory": _memory,
    "cores": lambda value: f"{value['usable']} usable of {value['all']}",
    "disk": _memory,
    "extras": _extras,
    "codecs": _codecs,
    "compiled programs": _programs,
    "environment": _environment,
}
