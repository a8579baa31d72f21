"""One process: the embedded bus beside other event buses."""
