"""What proves that somebody has stopped, and the record of it that outlives the daemon."""
