"""What the field tests need of Debian: packages, and a kernel for guests, kept between runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.field.parts import Skip

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iommubus-field"
"""Where downloads are kept."""

KERNEL: Final = re.compile(r"^linux-image-6\.1\.0-(\d+)-cloud-amd64$")
"""A guest's kernel: the cloud flavour has vfio, vhost and virtio, and is small."""


class NotRoot(Exception):
    """Packages are missing, and only root can install them."""


class Kernel(Struct, frozen=True):
    """A kernel for guests.

    Attributes:
        release: What it calls itself.
        image: The file that QEMU starts.
        modules: Where its modules are.
    """

    release: str
    image: Path
    modules: Path

    def needed(self, *names: str) -> list[Path]:
        """Return modules and all that they need, in the order in which they are loaded; what is built in is left out.

        Raises:
            Skip: The kernel has no such module.
        """
        needs = dict(self._needs())
        paths = {Path(path).stem.replace("-", "_"): path for path in needs}
        builtin = {
            Path(line).stem.replace("-", "_") for line in (self.modules / "modules.builtin").read_text().splitlines()
        }
        found: dict[str, None] = {}
        for name in (name.replace("-", "_") for name in names):
            if name in paths:
                found.update(dict.fromkeys([*reversed(needs[paths[name]]), paths[name]]))
            elif name not in builtin:
                raise Skip(f"the kernel {self.release} has no module {name}")
        return [self.modules / path for path in found]

    def _needs(self) -> list[tuple[str, list[str]]]:
        lines = (self.modules / "modules.dep").read_text().splitlines()
        return [(path, rest.split()) for path, _, rest in (line.partition(":") for line in lines)]


def install(*packages: str) -> None:
    """Install the packages that are missing.

    Raises:
        NotRoot: Some are, and this is not root.
        Skip: Debian does not have them, or cannot be reached.
    """
    missing = [package for package in packages if not _installed(package)]
    if not missing:
        return
    if os.geteuid():
        raise NotRoot(f"the field tests need root to install {' '.join(missing)}, or these packages installed")
    print(f"installing {' '.join(missing)}", flush=True)
    _run("apt-get", "update", "-qq")
    _run("apt-get", "install", "-qq", "--yes", "--no-install-recommends", *missing)


def kernel() -> Kernel:
    """Return the newest kernel for guests that Debian offers, or the one that was had before.

    Raises:
        Skip: There is none.
    """
    kept = sorted(CACHE.glob("linux-image-*"), key=lambda path: path.stat().st_mtime)
    root = kept[-1] if kept else unpacked(_newest_kernel())
    image = next(root.glob("boot/vmlinuz-*"))
    release = image.name.removeprefix("vmlinuz-")
    modules = root / "lib" / "modules" / release
    if not (modules / "modules.dep").exists():
        _run("depmod", "-b", str(root), release)
    return Kernel(release, image, modules)


def unpacked(package: str) -> Path:
    """Return where a package was unpacked that is not installed, because too much would come with it.

    Raises:
        Skip: Debian does not have it, or cannot be reached.
    """
    place = CACHE / package
    if place.exists():
        return place
    print(f"downloading {package}", flush=True)
    work = CACHE / f"download-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package, cwd=work)
    _run("dpkg", "-x", str(next(work.glob("*.deb"))), str(work / "root"))
    (work / "root").rename(place)
    shutil.rmtree(work)
    return place


def dependencies(package: str, prefix: str) -> list[str]:
    """Return what a package depends on whose name begins so."""
    words = _run("apt-cache", "depends", "--important", package).split()
    return sorted({word for word in words if word.startswith(prefix)})


def _newest_kernel() -> str:
    names = _run("apt-cache", "pkgnames", "linux-image-6.1.0-").split()
    found = sorted((int(match[1]), name) for name in names if (match := KERNEL.match(name)))
    if not found:
        _run("apt-get", "update", "-qq")
        names = _run("apt-cache", "pkgnames", "linux-image-6.1.0-").split()
        found = sorted((int(match[1]), name) for name in names if (match := KERNEL.match(name)))
    if not found:
        raise Skip("Debian offers no kernel 6.1 of the cloud flavour")
    return found[-1][1]


def _installed(package: str) -> bool:
    asked = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return asked.stdout == "installed"


def _run(*command: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as missing:
        raise Skip(f"this is no Debian: there is no {missing.filename}") from None
    if done.returncode:
        raise Skip(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
