"""What a wrapper says of a cell that it would leave as it is."""


class NoEffect(Exception):
    """A wrapper changes nothing of a cell; the argument is the reason, of which the cell is "it"."""
