"""What every back end needs: a shadower's copy and a cacher's cache."""
