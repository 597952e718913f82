"""The functions behind the commands: each parses, calls one function of a package, and prints.

Read `loop.py` first, then any. A module is imported when one of its commands is called; what one
command alone needs is imported in its function. They may import all packages, but not `cli.app`.
"""
