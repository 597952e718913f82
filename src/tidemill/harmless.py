"""Text from outside, so that a terminal or a log may print it."""


def harmless(text: str) -> str:
    r"""Return *text* without anything a terminal would act on.

    >>> harmless("red" + chr(27) + "[31m")
    'red\\x1b[31m'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
