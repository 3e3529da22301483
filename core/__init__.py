"""What every package here may import: errors, files that are whole or absent, strict reading of JSON, memory, plain
text, how a command ends.

It imports the standard library alone, but for `records`, which validates with pydantic, and `options` (typer).
"""
