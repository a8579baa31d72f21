"""Compile what this package has in C, when it is built: a hook of hatchling, named in pyproject.toml.

Every ``src/iommubus/compiled/*.c`` becomes an extension module beside it, for the
Python that builds.  Where there is no compiler, or no header of Python, there is
none, and everything is done in Python; one line says so.  The compiler is that
which Python itself was built with, or ``CC`` of the environment.

It needs nothing but Python and hatchling: it runs where nothing else is installed.
"""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER: Final = Path("src", "iommubus", "compiled")
FLAGS: Final = ("-O2", "-fPIC", "-shared", "-fno-strict-aliasing")
SUFFIX: Final[str] = sysconfig.get_config_var("EXT_SUFFIX") or ".so"


class CannotCompile(Exception):
    """There is no compiler, or it does not take what it is given."""


def command(source: Path, made: Path) -> list[str]:
    """Return the command line that makes an extension module of a C file."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    headers = dict.fromkeys(sysconfig.get_path(name) for name in ("include", "platinclude"))
    return [*compiler, *FLAGS, *(f"-I{path}" for path in headers), str(source), "-o", str(made)]


def compile_one(source: Path) -> Path:
    """Compile a C file, and return the module that it became.

    Raises:
        CannotCompile: That was not possible; what was there before is gone.
    """
    made = source.with_name(source.stem + SUFFIX)
    fresh = made.with_name(f"{made.name}.{os.getpid()}")
    try:
        done = subprocess.run(command(source, fresh), capture_output=True, text=True, check=False)
    except OSError as failure:
        made.unlink(missing_ok=True)
        raise CannotCompile(f"{failure.filename}: {failure.strerror}") from failure
    if done.returncode:
        made.unlink(missing_ok=True)
        fresh.unlink(missing_ok=True)
        wrong = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["failed"]
        raise CannotCompile(wrong[0])
    fresh.replace(made)  # a program that runs keeps the one that it loaded
    return made


class CompiledPart(BuildHookInterface[Any]):
    """Puts what could be compiled into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are collected; a wheel with something compiled is for one kind of machine."""
        del version  # "editable" is no different: what is made stands beside its source
        made: list[Path] = []
        for source in sorted(Path(self.root, FOLDER).glob("*.c")):
            try:
                made.append(compile_one(source))
            except CannotCompile as failure:
                self.app.display_warning(f"iommubus: {source.name} is not compiled, Python does its work: {failure}")
        if made:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["artifacts"] += [f"/{FOLDER / path.name}" for path in made]
