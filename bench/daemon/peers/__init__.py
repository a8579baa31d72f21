"""The peers: what is particular to each."""
