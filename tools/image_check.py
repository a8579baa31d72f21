"""Build the image of the Dockerfile, start it, and have its own health check answered.

Usage: ``python tools/image_check.py``, as root; ``make image-check`` is the same.

There need be no Docker engine and no registry: ``buildah`` builds, and a Debian
that ``debootstrap`` makes stands under the tag that the Dockerfile's FROM names.
Debian and PyPI are reached as this machine is configured to reach them.

It checks what the Dockerfile promises: that what is quicker in C is compiled, that the user is not root, that the
default command serves, that the health check passes while it does and fails when it
does not, that nothing is written but in the volume (the root file system is
mounted read-only), and that SIGTERM ends it cleanly.  The last line is ``image ok``.
"""

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TOP: Final = Path(__file__).parents[1]
DOCKERFILE: Final = TOP / "Dockerfile"

TOOLS: Final = ("buildah", "debootstrap")
"""What has to be installed; packages of Debian have the same names."""

SUITE: Final = "bookworm"
"""The Debian whose ``python3`` has the version of the tag."""

PACKAGES: Final = "ca-certificates,libpython3-dev,python3,python3-venv"
"""What the base has: the headers of Python are in the image of the tag, too."""

IMAGE: Final = "iommubus:check"
VOLUME: Final = "/run/iommubus"

PATIENCE: Final = 60.0
"""Seconds until what was started has to answer, on a busy machine."""

CERTIFICATES: Final = "/etc/ssl/certs"

PROBE: Final = """
try:
    open("/opt/probe", "w")
except OSError as failure:
    print(failure.strerror)
"""

Wrap = Callable[[Path, Sequence[str]], list[str]]
"""Returns a command line that runs words inside the image, with a volume."""


class Unfit(Exception):
    """The image is not as it has to be."""


@dataclass(frozen=True)
class Store:
    """Where buildah keeps images and containers: in a directory of its own.

    Attributes:
        directory: The directory.
    """

    directory: Path

    def buildah(self, command: str, *arguments: str) -> list[str]:
        """Return a command line of buildah."""
        root, run = self.directory / "store", self.directory / "run"
        return ["buildah", "--storage-driver", "vfs", "--root", f"{root}", "--runroot", f"{run}", command, *arguments]

    def do(self, command: str, *arguments: str) -> str:
        """Run buildah, and return what it printed."""
        return output(self.buildah(command, *arguments))


def main() -> None:
    """Build, start, ask, stop; raise where something is not as it has to be."""
    if os.geteuid() != 0:
        sys.exit("image_check: it makes a root file system, and has to run as root")
    install_missing()
    tag = base_tag()
    with tempfile.TemporaryDirectory(prefix="image-check-") as name:
        store = Store(Path(name))
        base = make_base(store, tag)
        build(store)
        config = json.loads(store.do("inspect", "--type", "image", IMAGE))["Docker"]["config"]
        check_config(config)
        container = store.do("from", "--pull-never", IMAGE)
        root = Path(store.do("mount", container))
        say(f"the image has {megabytes(root)} MB, {megabytes(root) - base} MB above the base")
        check_compiled(root, config)
        check_running(store, container, root, config)
        store.do("umount", container)
        store.do("rm", container)
    print("image ok")


# -- before ------------------------------------------------------------------


def install_missing() -> None:
    """Install what is missing, and say so."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not missing:
        return
    say(f"missing: {', '.join(missing)}; apt-get installs them")
    do(["apt-get", "update", "-qq"])
    do(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *missing])


def base_tag() -> str:
    """Return the tag that every stage of the Dockerfile begins with."""
    tags = set(re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE))
    if len(tags) != 1:
        raise Unfit(f"the stages begin with {', '.join(sorted(tags))}, which cannot all be stood for")
    return str(tags.pop())


# -- building ----------------------------------------------------------------


def make_base(store: Store, tag: str) -> int:
    """Put a Debian with Python under the tag; return its size in MB."""
    root = store.directory / "base"
    say(f"debootstrap {SUITE} stands for {tag}")
    do(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)])
    for useless in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / useless)
    (root / "usr/bin/python").symlink_to("python3")
    version = output(["chroot", str(root), "python", "--version"]).removeprefix("Python ")
    if not version.startswith(tag.partition(":")[2].partition("-")[0] + "."):
        raise Unfit(f"Python {version} of {SUITE} is not that of {tag}")
    container = store.do("from", "--pull-never", "scratch")
    store.do("copy", "--quiet", container, str(root), "/")
    store.do("commit", "--quiet", "--format", "docker", container, tag)
    store.do("rm", container)
    size = megabytes(root)
    say(f"the base has Python {version} and {size} MB")
    shutil.rmtree(root)
    return size


def build(store: Store) -> None:
    """Build the image as the Dockerfile says it."""
    volumes = [word for source, target in pip_volumes(store.directory) for word in ("-v", f"{source}:{target}:ro")]
    how = ["--isolation", "chroot", "--pull-never", "--format", "docker", "--quiet"]
    say(f"buildah bud: {IMAGE}")
    do(store.buildah("bud", *how, *volumes, "-t", IMAGE, "-f", str(DOCKERFILE), str(TOP)))


def pip_volumes(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield what has to be mounted for pip to find packages as it does on this machine, and where."""
    settings: dict[str, str] = {}
    for line in output([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = value.strip("'\"")
    file = directory / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    yield str(file), "/etc/pip.conf"
    yield CERTIFICATES, CERTIFICATES
    for path in sorted({path for value in settings.values() for path in local_paths(value)}):
        if Path(path).exists() and not path.startswith(CERTIFICATES):
            yield path, path


def local_paths(value: str) -> Iterator[str]:
    """Yield the paths in a setting of pip; of an index the directory above, because its links lead beside it."""
    for word in value.split():
        if word.startswith("file://"):
            yield str(Path(word.removeprefix("file://")).parent)
        elif word.startswith("/"):
            yield word


# -- the promises ------------------------------------------------------------


def check_config(config: dict[str, Any]) -> None:
    """Check what the image says of itself."""
    user, command = config["User"], [*config["Entrypoint"], *config["Cmd"]]
    check = config["Healthcheck"]["Test"]
    say(f"user {user}, command {' '.join(command)}, volumes {' '.join(config['Volumes'])}, health {' '.join(check)}")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        raise Unfit(f"the user is {user!r}, and not the number of one that is not root")
    if check[0] != "CMD" or command[-1] != "serve":
        raise Unfit("the image does not serve, or its health check is no command")


def check_compiled(root: Path, config: dict[str, Any]) -> None:
    """Check that what is quicker in C was compiled."""
    program = "/opt/iommubus/bin/iommubus"
    told = output(["chroot", str(root), "/usr/bin/env", "-i", *config["Env"], program, "--version"]).strip()
    say(told)
    if "compiled: " not in told:
        raise Unfit("nothing in it is compiled")


def check_read_only(store: Store, root: Path, config: dict[str, Any]) -> None:
    """Check that what is started on a read-only root really cannot write there: not even root could."""
    with volume_of(store, config["User"]) as volume:
        probe = ["python", "-c", PROBE]
        done = subprocess.run(
            read_only(root, volume, {**config, "User": "0:0"}, probe), capture_output=True, text=True, check=False
        )
    if done.returncode or done.stdout.strip() != "Read-only file system":
        raise Unfit(f"the root file system is not read-only: {done.stdout}{done.stderr}")


def check_running(store: Store, container: str, root: Path, config: dict[str, Any]) -> None:
    """Start it in both ways, and have its own health check answered each time."""
    command, health = [*config["Entrypoint"], *config["Cmd"]], config["Healthcheck"]["Test"][1:]
    ways: dict[str, Wrap] = {
        "buildah run, chroot isolation": lambda volume, words: [
            *store.buildah("run", "--isolation", "chroot", "-v", f"{volume}:{VOLUME}", container, "--"),
            *words,
        ],
        "a root file system that is read-only": lambda volume, words: read_only(root, volume, config, words),
    }
    check_read_only(store, root, config)
    for title, wrap in ways.items():
        say(f"{' '.join(command)}: {title}")
        with volume_of(store, config["User"]) as volume:
            serve_and_ask(volume, config["User"], wrap(volume, command), wrap(volume, health))


def serve_and_ask(volume: Path, user: str, command: Sequence[str], health: Sequence[str]) -> None:
    """Start the daemon, ask it, see who it is, and stop it."""
    path = volume / "bus.sock"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(process, path.is_socket, "a socket")
            print(output(health))
            pid = daemon_pid(path)
            found = re.search(r"^Uid:\s(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
            if found is None or found[1] != user.partition(":")[0]:
                raise Unfit(f"the daemon runs as another user than {user}")
            os.kill(pid, signal.SIGTERM)
            status = process.wait(PATIENCE)
        finally:
            process.kill()
    left = sorted(file.name for file in volume.iterdir())
    if status or path.exists():
        raise Unfit(f"SIGTERM ended it with status {status} and left {left}")
    if subprocess.run(health, capture_output=True, check=False).returncode != 1:
        raise Unfit("the health check passes though nobody serves")
    say(f"SIGTERM ended it with status 0 and left {', '.join(left) or 'nothing'}; now the health check fails")


def read_only(root: Path, volume: Path, config: dict[str, Any], words: Sequence[str]) -> list[str]:
    """Return a command line that runs something in the image as the image says, where nothing can be written."""
    user, environment = config["User"], config["Env"]
    script = """
        set -e
        mount --bind "$1" "$1"
        mount --bind /dev "$1/dev"
        mount --bind "$2" "$1$3"
        mount -t proc proc "$1/proc"
        mount -o remount,bind,ro "$1"
        root=$1 user=$4
        shift 4
        exec chroot --userspec="$user" "$root" /usr/bin/env -i "$@"
    """
    shell = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    return [*shell, str(root), str(volume), VOLUME, user, *environment, *words]


@contextmanager
def volume_of(store: Store, user: str) -> Generator[Path]:
    """Give an empty directory of the user of the image."""
    volume = store.directory / "volume"
    volume.mkdir()
    os.chown(volume, *map(int, user.split(":")))
    try:
        yield volume
    finally:
        shutil.rmtree(volume)


def daemon_pid(path: Path) -> int:
    """Return the process that listens at a socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


# -- tools -------------------------------------------------------------------


def wait_until(process: subprocess.Popen[bytes], true: Callable[[], bool], what: str) -> None:
    """Wait until something is so; fail if the process ends before."""
    end = time.monotonic() + PATIENCE
    while not true():
        if process.poll() is not None:
            raise Unfit(f"it ended with status {process.returncode} before there was {what}")
        if time.monotonic() > end:
            raise Unfit(f"there was no {what} within {PATIENCE:g} s")
        time.sleep(0.05)


def output(command: Sequence[str]) -> str:
    """Run something, and return what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Unfit(f"{' '.join(command)} ended with status {done.returncode}")
    return done.stdout.strip()


def do(command: Sequence[str]) -> None:
    """Run something, and show what it printed only if it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout)
        raise Unfit(f"{' '.join(command)} ended with status {done.returncode}")


def megabytes(root: Path) -> int:
    """Return how much the files below a directory have, in MB."""
    return int(output(["du", "--summarize", "--one-file-system", "--block-size=1MB", str(root)]).split()[0])


def say(text: str) -> None:
    """Say what is done, or was seen."""
    print(f"image_check: {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Unfit as reason:
        sys.exit(f"image_check: {reason}")
