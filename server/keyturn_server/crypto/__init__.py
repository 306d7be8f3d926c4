"""Keys, signatures, certificates and what wraps them, over `cryptography` and PyJWT.

Private halves stay inside the objects made here: no repr, message or log line holds one.
"""
