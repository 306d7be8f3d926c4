"""The HTTP edge: the public documents, and what operations tools ask."""
