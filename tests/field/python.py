"""Python in a guest's root file system: the interpreter that runs the tests, and this package.

Files are put where they are here, and modules as the byte code that they were
compiled to: nothing is compiled in the guest, whose processor is an emulated one.
"""

import importlib.util
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tests.field.debian import install
from tests.field.initramfs import Initramfs

ROOT: Final = Path(__file__).parents[2]

UNUSED: Final = {
    "__pycache__", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "dist-packages",
    "sqlite3", "test", "tests", "tkinter", "turtledemo", "unittest", "venv", "wsgiref", "xmlrpc",
}  # fmt: skip
"""Packages of the standard library that nothing in a guest loads."""

NEEDED: Final = ("anyio", "idna", "msgspec", "sniffio", "typing_extensions.py")
"""What this package imports beside the standard library, and what that imports; not each version of `anyio` has all."""

OWN: Final = "/app"
"""Where the package is in a guest, and its tests."""


def add_python(root: Initramfs) -> str:
    """Add an interpreter with this package, and return the command that starts it."""
    install("binutils")
    program = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    site = Path(sysconfig.get_path("purelib"))
    extensions = [*_extensions(stdlib / "lib-dynload"), *_extensions(site / "msgspec")]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for path in (program, *extensions, *_libraries([program, *extensions])):
            root.file(str(path).lstrip("/"), _stripped(path, work), 0o755)
        for source in _modules(stdlib, UNUSED):
            _add_compiled(root, source, source, work)
        for name in NEEDED:
            for source in _modules(site / name, {"tests", "__pycache__"}):
                _add_compiled(root, source, Path(OWN) / source.relative_to(site), work)
        for source in (*_modules(ROOT / "src", set()), *_modules(ROOT / "tests" / "field" / "guest", set())):
            _add_compiled(root, source, Path(OWN) / source.relative_to(ROOT), work)
    for path in sorted((ROOT / "examples").glob("*.py")):
        root.copy(path, f"{OWN}/examples/{path.name}"[1:])
    for path in _extensions(site / "msgspec"):
        root.link(f"{OWN}/{path.relative_to(site)}"[1:], str(path))
    return f"PYTHONHOME={sys.base_prefix} PYTHONPATH={OWN}:{OWN}/src {program}"


def _modules(place: Path, without: set[str]) -> Iterator[Path]:
    if place.is_file():
        yield place
    elif place.is_dir():
        for path in sorted(place.iterdir()):
            if path.is_dir() and path.name not in without:
                yield from _modules(path, without)
            elif path.suffix == ".py":
                yield path


def _extensions(place: Path) -> list[Path]:
    return [path for path in sorted(place.glob("*.so")) if "test" not in path.name]


def _add_compiled(root: Initramfs, source: Path, place: Path, work: Path) -> None:
    """Add a module in the form that is loaded where its source is not."""
    kept = Path(importlib.util.cache_from_source(str(source)))
    if not kept.exists() or kept.stat().st_mtime < source.stat().st_mtime:
        kept = work / "module.pyc"
        py_compile.compile(str(source), cfile=str(kept), dfile=str(place), doraise=True)
    root.file(str(place.with_suffix(".pyc")).lstrip("/"), kept.read_bytes())


def _libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """Yield the shared libraries of programs, and the loader."""
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True).stdout
    words = {word for line in told.splitlines() for word in line.split() if word.startswith("/") and word[-1] != ":"}
    yield from sorted(map(Path, words))


def _stripped(path: Path, work: Path) -> bytes:
    """Return a program or library without what a debugger reads, which may be most of it."""
    copy = work / "stripped"
    shutil.copyfile(path, copy)
    subprocess.run(["strip", "--strip-unneeded", str(copy)], check=False, capture_output=True)
    return copy.read_bytes()
