"""The ground floor: what a ring, a key, a policy, a token and a document are.

Pure functions and frozen values over the standard library. Nothing here reads a clock, does I/O, or knows how
anything is stored, signed or sent; `now` is always an argument, an aware datetime in UTC.
"""
