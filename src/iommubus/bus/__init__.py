"""The embedded bus, and what any bus is (`abc`)."""
