"""What others see of the daemon: logs, counters, pages, and what systemd is told."""
