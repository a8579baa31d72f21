"""The daemon's rooms: what it is told, who may do what, what it has to remember."""
