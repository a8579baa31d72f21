"""Tests; directories below mirror those of ``src/iommubus``."""
