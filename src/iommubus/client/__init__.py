"""The bus of a daemon, in the process of a client."""
