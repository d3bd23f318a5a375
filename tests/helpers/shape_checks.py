"""Runtime checks of the jaxtyping annotations."""

from beartype import BeartypeConf, beartype


def checked(obj):
    """Beartype that takes an int for a float."""
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(obj)
