"""The producer's half: spaces, endpoints and memories, and what is known of closed ones."""
