"""What is done about each message of a client."""
