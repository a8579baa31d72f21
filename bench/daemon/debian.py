"""Servers of Debian: the installed ones, or else unpacked into this environment.

Nothing is installed, no service is started, and nobody has to be root.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from msgspec import Struct

from .subject import Missing

ROOT: Final = Path(sys.prefix) / "debian"
"""Where packages are unpacked."""

NUMBER: Final = re.compile(r"\d+(\.\d+)+")
"""A version among the words that a program says of itself."""

SYSTEM: Final = "/usr/sbin:/sbin"
"""Where servers are; not everybody looks there."""


class Program(Struct, frozen=True):
    """A server's program.

    Attributes:
        path: Where it is.
        environment: What it needs to find its libraries.
    """

    path: str
    environment: dict[str, str] = {}

    def version(self, flag: str = "--version") -> str:
        """Return its version, in numbers."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run([self.path, flag], env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        found = NUMBER.search(done.stdout + done.stderr)
        return "of some version" if found is None else found[0]


def program(name: str, package: str) -> Program:
    """Return a server's program.

    Args:
        name: What it is called.
        package: The package of Debian that has it.

    Raises:
        Missing: It is not installed, and the package cannot be had.
    """
    installed = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM}")
    if installed is not None:
        return Program(installed)
    if unpacked(name) is None:
        unpack(package)
    found = unpacked(name)
    if found is None:
        raise Missing(f"there is no {name} in Debian's {package}")
    libraries = ":".join(str(path) for path in sorted(ROOT.glob("usr/lib/*-linux-*")))
    return Program(str(found), {"LD_LIBRARY_PATH": libraries})


def unpacked(name: str) -> Path | None:
    """Return a program that was unpacked before."""
    return next(iter(sorted(ROOT.glob(f"usr/*bin/{name}"))), None)


def unpack(package: str) -> None:
    """Download a package and all that it needs and the system has not, and unpack it.

    Raises:
        Missing: This is no Debian, or it does not have the package, or cannot be reached.
    """
    archives = ROOT / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    print(f"downloading {package}", flush=True)
    options = [f"Dir::Cache::archives={archives}", "Debug::NoLocking=1"]
    if not os.geteuid():  # Debian's own user may not write here
        options.append("APT::Sandbox::User=root")
        if not known(package):
            run("apt-get", "update", "-qq")
    flags = [word for option in options for word in ("-o", option)]
    run("apt-get", "install", "--download-only", "--yes", "-qq", "--no-install-recommends", *flags, package)
    for archive in sorted(archives.glob("*.deb")):
        run("dpkg", "-x", str(archive), str(ROOT))
        archive.unlink()


def known(package: str) -> bool:
    """Return whether Debian's lists are here, and have a package."""
    return bool(run("apt-cache", "search", "--names-only", f"^{re.escape(package)}$").strip())


def run(*command: str) -> str:
    """Run one of Debian's programs, and return what it says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError as missing:
        raise Missing(f"this is no Debian: there is no {missing.filename}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"{' '.join(command[:2])} failed: {said[-1] if said else done.returncode}")
    return done.stdout
