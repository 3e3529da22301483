"""The ground floor: errors, files that are whole or absent, JSON from strangers, plain text, how a command ends.

Every room may import it. It imports the standard library alone, but for `records`, which validates with pydantic.
"""
