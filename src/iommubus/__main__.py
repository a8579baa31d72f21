"""``python -m iommubus``: the same as the script ``iommubus``."""

from .cli import main

main()
