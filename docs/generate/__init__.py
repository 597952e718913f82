"""The parts of the site that are made from the code when the site is built.

Each module returns Markdown for a placeholder of a page in `docs/reference/`; nothing is written
into the source tree. Read `names.py` first: it is the only module here that imports tidemill.
"""
