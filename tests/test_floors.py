"""The house: imports point down, and the lower floors stay pure."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[1] / "src" / "iommubus"

# Lowest first, and so is every row.  A name is a module or a package; a module
# imports lower rows and names before its own.  `iommubus` is its `__init__`.
FLOORS: Final[list[list[str]]] = [
    ["errors", "caps", "ranges", "events"],
    [
        "shape", "rangeset", "mapping", "kinds", "chunks", "compiled", "table", "contract", "plain", "staging",
        "feed", "parked", "mailbox", "ledger", "completion", "wire", "abi",
    ],
    ["bus", "consumers", "iommubus"],
    ["transport", "bridging", "bridges"],
    ["service", "client", "testing"],
    ["demo", "cli", "__main__"],
]  # fmt: skip

# Inside a package a file imports those before it; its `__init__` comes last.
INSIDE: Final[dict[str, list[str]]] = {
    "errors": [
        "base", "mapping", "subscribing", "names", "moments", "outcomes", "device", "foreign", "wire", "trials",
        "hosts", "daemon", "remote", "bridges",
    ],
    "compiled": ["table", "rows"],
    "wire": ["framing", "messages", "failures", "runs", "negotiation", "codec", "connection"],
    "wire.messages": [
        "values", "replies", "greeting", "spaces", "rows", "publishing", "syncing", "subscribing", "watching",
        "heard", "queries",
    ],
    "abi": [
        "fields", "payloads", "extents", "splitter",
        "vhost", "vhost_user", "vfio", "iommufd", "vfio_user", "virtio_iommu", "qemu_trace",
    ],
    "abi.vhost_user": ["bits", "header", "bodies", "codecs", "requests", "messages"],
    "abi.vfio": ["structures", "info", "changes"],
    "abi.iommufd": ["structures", "changes"],
    "abi.virtio_iommu": ["bits", "requests", "answers"],
    "abi.vfio_user": ["bits", "bodies", "messages"],
    "abi.qemu_trace": ["records", "families", "trace"],
    "bus": [
        "reports", "abc", "logs", "memory", "notifier", "translation", "failures", "soon", "buried", "uses", "given",
        "hand", "attachment", "whereabouts", "seat", "member", "subscription", "observer", "ranged", "routes",
        "questions", "removed", "publisher", "sync", "space", "endpoint", "threads", "bus",
    ],
    "bus.abc": ["terms", "consumer", "producer", "bus"],
    "consumers": ["pins", "views", "mirror", "iotlb"],
    "transport": [
        "clock", "deadlines", "tasks", "address", "lock", "credentials", "descriptors", "listeners", "activation",
        "tls",
    ],
    "bridging": [
        "telling", "faults", "sockets", "messages", "replies", "barrier", "memories", "addresses", "kernel",
        "regions", "dma", "vring",
    ],
    "bridges": [
        "vhost_user_backend", "vhost_user_frontend", "vhost_user_tap", "vhost", "vfio", "vfio_user_server",
        "vfio_user_client",
    ],
    "bridges.vhost_user_backend": [
        "device", "offers", "misses", "rings", "line", "answers", "memory", "serving", "asking", "handling",
        "front_end", "bridge", "sink",
    ],
    "bridges.vhost_user_tap": [
        "cutting", "seen", "ways", "carrying", "reading", "showing", "counting", "recording", "watching", "reaching",
        "tap",
    ],
    "bridges.vhost_user_frontend": [
        "rings", "agreement", "counts", "table", "asking", "stopping", "lending", "questions", "answering", "revoking",
        "session", "frontend",
    ],
    "bridges.vhost": ["device", "bridge"],
    "bridges.vfio": ["words", "container", "bridge"],
    "bridges.vfio_user_server": ["terms", "regions", "answers", "device", "session", "bridge"],
    "bridges.vfio_user_client": ["terms", "calls", "access", "link", "applying", "bridge"],
    "service": [
        "settings", "seen", "requests", "proof", "clients", "spaces", "packing", "shared", "turns", "session",
        "handlers", "daemon", "accepting", "serve",
    ],
    "service.settings": ["rules", "config", "sources"],
    "service.seen": ["logs", "systemd", "http", "counts", "metrics"],
    "service.proof": ["leases", "record", "recorder", "recovering", "evidence", "keeping", "watch", "stopping"],
    "service.spaces": ["demand", "applying", "closed", "held", "store"],
    "service.handlers": [
        "memories", "stream", "following", "publishing", "globs", "outcomes", "pending", "syncing", "watching",
        "answering",
    ],
    "client": [
        "answers", "channel", "reconnect", "link", "syncing", "spaces", "directory", "adding", "memories", "arrivals",
        "holding", "handing", "speaking", "following", "seats", "watching", "remote",
    ],
    "testing": ["oracle", "streams", "passing", "conformance", "plugin"],
    "testing.conformance": [
        "case", "demands", "follower", "scene", "failures", "keeping", "moving", "script",
        "bus_sync", "bus_streams", "bus_failures", "bus_words", "bus_moves", "bus_endpoints", "bus_memory",
        "bus_questions", "bus_contracts", "bus_pins", "bus_scripts", "bus",
        "trial", "consumer_laws", "consumer", "watch", "producer",
    ],
    "demo": [
        "pages", "script", "source", "judge", "picture", "result", "subscribers", "counters", "house", "casting",
        "endpoints", "player", "job", "canvas", "view", "board", "pipe", "process", "processes",
    ],
    "cli": [
        "words", "printing", "running", "options", "talking", "orders", "groups",
        "serve", "check_config", "ping", "spaces", "subscribers", "tail", "lookup", "hold", "fence", "bridge", "demo",
        "app", "start", "__main__",
    ],
    "cli.bridge": [
        "crossing", "vhost_user_backend", "vhost_user_frontend", "vhost_user_tap", "vhost", "vfio", "vfio_user_server",
        "vfio_user_client",
    ],
}  # fmt: skip

LEAVES: Final = {"bridges"}
"""Packages whose files never import one another."""

BY_NAME: Final = {("iommubus", "iommubus.client")}
"""Upward edges that are wanted: `iommubus.connect` loads the client when it is called."""

IMPURE: Final = {
    "_thread", "anyio", "asyncio", "concurrent", "datetime", "multiprocessing", "sched", "select", "selectors",
    "signal", "socket", "socketserver", "ssl", "subprocess", "threading", "time", "trio", "uvloop",
}  # fmt: skip
"""Clocks, tasks and sockets: not for floors 0 and 1."""

Place = tuple[int, ...]
"""Floor, position on it, position inside the package, and so on: what is lower is smaller."""


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Final[dict[str, Path]] = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def places_inside(package: str, place: Place) -> Iterator[tuple[str, Place]]:
    """Yield where a package's `__init__` and its files belong; a module alone is a package without files."""
    files = INSIDE.get(package.removeprefix("iommubus."), [])
    yield package, (*place, len(files))
    for position, name in enumerate(files):
        yield from places_inside(f"{package}.{name}", (*place, position))


def places() -> Iterator[tuple[str, Place]]:
    """Yield where each module of the tables above belongs."""
    for floor, row in enumerate(FLOORS):
        for position, name in enumerate(row):
            yield from places_inside("iommubus" if name == "iommubus" else f"iommubus.{name}", (floor, position))


PLACES: Final[dict[str, Place]] = dict(places())


def imports_of(name: str) -> Iterator[str]:
    """Yield every module that ``name`` imports, by its full name, wherever the statement stands."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in MODULES else base


def edges() -> list[tuple[str, str]]:
    """Return each import of one module of the package by another."""
    return [
        (name, imported)
        for name in MODULES
        for imported in imports_of(name)
        if imported.partition(".")[0] == "iommubus"
    ]


def points_down(upper: str, lower: str) -> bool:
    """Say whether the tables allow ``upper`` to import ``lower``."""
    if not {upper, lower} <= PLACES.keys():
        return False
    if (upper, lower) in BY_NAME:
        return True
    package = upper.rpartition(".")[0]
    siblings = package == lower.rpartition(".")[0]
    if siblings and package.removeprefix("iommubus.") in LEAVES:
        return False
    return PLACES[lower] < PLACES[upper]


def test_every_module_has_a_place() -> None:
    assert [name for name in MODULES if name not in PLACES] == []


def test_imports_point_down() -> None:
    assert [f"{upper} imports {lower}" for upper, lower in edges() if not points_down(upper, lower)] == []


def test_words_and_machines_know_no_clock_no_task_no_socket() -> None:
    impure = [
        f"{name} imports {imported}"
        for name in MODULES
        if name in PLACES and PLACES[name][0] <= 1
        for imported in imports_of(name)
        if imported.partition(".")[0] in IMPURE
    ]

    assert impure == []


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a new interpreter has loaded after ``statement``."""
    probe = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_embedding_loads_no_network_code() -> None:
    beyond = loaded_by("import iommubus") - loaded_by("import anyio, msgspec")

    assert "iommubus" in beyond
    assert beyond.isdisjoint({"asyncio", "socket", "ssl", "trio", "uvloop"})
    assert {name for name in beyond if name in PLACES and PLACES[name] > PLACES["iommubus"]} == set()
