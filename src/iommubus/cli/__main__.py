"""``python -m iommubus.cli``: the same as the script ``iommubus``."""

from .start import main

main()
