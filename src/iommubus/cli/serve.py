"""``iommubus serve``: the daemon."""

import gc
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ..service.settings.config import Config
from ..service.settings.sources import CONFIG_VARIABLE, load
from .running import WrongUsage, plain_errors, quit_with, run

PANEL: Final = "Settings"


def _setting(key: str, help_: str, metavar: str, *names: str) -> Any:
    names = names or (f"--{key.replace('.', '-').replace('_', '-')}",)
    return typer.Option(*names, metavar=metavar, help=help_, rich_help_panel=PANEL, show_default=False)


THRESHOLDS: Final = (50_000, 20, 20)
"""Containers more than before after which the garbage collector looks at the young ones, how often it
does so before it looks at older ones, and those before it looks at all: some MiB may wait for it."""


def serve(  # noqa: PLR0913, PLR0917 - options are keywords
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The configuration, TOML.", envvar=CONFIG_VARIABLE, show_default=False),
    ] = None,
    listen: Annotated[
        list[str] | None, _setting("listen", "Where to listen; may be given several times.", "ADDRESS")
    ] = None,
    socket_mode: Annotated[
        str | None, _setting("socket_mode", "Who may connect to a Unix socket, in digits of chmod.", "MODE")
    ] = None,
    state: Annotated[
        str | None, _setting("state", "The file that remembers who may still hold something.", "FILE")
    ] = None,
    producer_grace: Annotated[
        str | None,
        _setting("producer_grace", "How long the spaces of a lost producer keep their mappings.", "SECONDS"),
    ] = None,
    lease: Annotated[
        str | None,
        _setting("leases.seconds", "How long subscribers may go on without the daemon.", "SECONDS", "--leases-seconds"),
    ] = None,
    metrics: Annotated[
        str | None,
        _setting("metrics.listen", "Where counters for Prometheus can be read.", "ADDRESS", "--metrics-listen"),
    ] = None,
    log_format: Annotated[str | None, _setting("log.format", "How log lines are written.", "text|json")] = None,
    log_level: Annotated[
        str | None, _setting("log.level", "The least important lines that are written.", "debug|info|warning|error")
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, by its dotted key.", rich_help_panel=PANEL),
    ] = None,
) -> None:
    """Serve the bus to other processes, until SIGTERM or Ctrl-C; SIGHUP has the rules read anew.

    Flags are over the environment, and that is over the file. `iommubus check-config` tells what comes of them.
    """
    given = {
        "listen": listen,
        "socket_mode": socket_mode,
        "state": state,
        "producer_grace": producer_grace,
        "leases.seconds": lease,
        "metrics.listen": metrics,
        "log.format": log_format,
        "log.level": log_level,
    }

    def read() -> Config:
        return load(config, os.environ, flags)

    with plain_errors("serve"):
        flags = {**{key: value for key, value in given.items() if value}, **keys_and_values(others or [])}
        first = read()
    if first.metrics.listen is not None and find_spec("prometheus_client") is None:
        quit_with("serve", "metrics.listen needs prometheus-client; install it with: pip install 'iommubus[metrics]'")

    async def work() -> None:
        from ..service.serve import serve as serve_clients  # noqa: PLC0415 - wrong settings need not wait for it

        await serve_clients(first, reload=read)

    collect_rarely()
    run("serve", work)


def collect_rarely() -> None:
    """Have the garbage collector look less often, and not at what a daemon has from its beginning.

    Hardly anything here is garbage that refers to itself, and with a few hundred
    subscribers looking at all there is took as long as all else.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def keys_and_values(texts: list[str]) -> dict[str, str]:
    """Return the settings of ``KEY=VALUE``.

    Raises:
        WrongUsage: One is not written so.
    """
    settings: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise WrongUsage(f"--set {text}: a setting is KEY=VALUE, as in --set limits.spaces=16")
        settings[key.strip()] = value.strip()
    return settings
