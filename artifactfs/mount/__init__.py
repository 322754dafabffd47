"""A mount's life: checks, fork, session, signals, unmount."""
