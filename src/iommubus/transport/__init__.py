"""Where bytes come from: addresses, listeners, who is at the other end, descriptors."""
