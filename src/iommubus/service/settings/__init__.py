"""What an administrator sets: rules, limits, and where they come from."""
