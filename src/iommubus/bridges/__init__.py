"""Bridges between the bus and real programs and kernels; each stands alone, and is imported by its own name."""
