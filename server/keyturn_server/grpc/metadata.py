"""What the command line tells the service beside its requests."""

CLAIMED_USER = "keyturn-user"
"""The metadata that says which user of the host runs the command. Nothing proves it, and the record says so."""
