"""VFIO type 1: a space shadowed into a container of this machine's kernel.

* `words`: what the kernel's answers mean
* `container`: an open container, and its calls
* `bridge`: the subscription whose events become those calls

Source: Linux ``include/uapi/linux/vfio.h`` and, for what is refused,
``drivers/vfio/vfio_iommu_type1.c``.
"""

from .bridge import VfioBridge, VfioStatistics
from .container import Container, group_of

__all__ = ["Container", "VfioBridge", "VfioStatistics", "group_of"]
