"""Blocks of a text that a command writes, between markers."""

__all__ = ["block_of", "has_block", "replace_block"]


def replace_block(text: str, block: str, name: str = "report") -> str:
    """A text with what stands between the markers of a block replaced.

    Args:
        text: holds `<!-- zoo NAME: begin -->` and `<!-- zoo NAME: end -->`.
        block: what to put between them.
        name: of the block.

    Raises:
        ValueError: unless both markers stand there once and in order.
    """
    head, _, tail = _partition(text, name)
    begin, end = _markers(name)
    return f"{head}{begin}\n\n{block.strip()}\n\n{end}{tail}"


def has_block(text: str, name: str) -> bool:
    """Whether a text has a marker of a block."""
    return any(marker in text for marker in _markers(name))


def block_of(text: str, name: str = "report") -> str:
    """What stands between the markers of a block.

    Raises:
        ValueError: unless both markers stand there once and in order.
    """
    return _partition(text, name)[1]


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- zoo {name}: begin -->", f"<!-- zoo {name}: end -->"


def _partition(text: str, name: str) -> tuple[str, str, str]:
    begin, end = _markers(name)
    head, first, rest = text.partition(begin)
    block, second, tail = rest.partition(end)
    if not (first and second) or begin in rest or end in tail:
        raise ValueError(f"expected one block between {begin} and {end}; put both markers in")
    return head, block, tail
