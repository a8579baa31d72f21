"""``iommubus``, the command: one module a command, `app` their frame, `start` the way in."""

from .start import main as main
