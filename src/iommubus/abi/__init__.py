"""Other people's bytes: pure functions, no descriptors, nothing believed unchecked."""
