"""The gRPC edge: translates the wire, calls a use case, translates back."""
