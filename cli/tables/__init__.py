"""The tables, lines and JSON documents that commands print, one module for each kind of value.

Read `cli/terminal.py` first, which has the rule for all of them; then any. They print values that
they are given: they may not open a lake, ask Kafka or import `cli.commands`.
"""
