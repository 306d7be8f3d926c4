"""The command line: translates arguments, calls a use case or the service, prints the answer."""
