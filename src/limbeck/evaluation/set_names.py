"""Names by which a reader tells sets of runs or samples apart: the options in which they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.config.comparison import distinguishing_options

_MOST_OPTIONS = 4  #: more do not fit into the heading of a table


def name_sets(families: Mapping[str, Any]) -> dict[str, str]:
    """Return a name for each set that is compared with the others.

    It is the label without its hash where this suffices, and with the options in which sets of that
    name differ; where these are too many, with the hash.

    Args:
        families: what made each set, a frozen dataclass, by its label, which ends in " (HASH)".
    """
    names = {label: label.rpartition(" (")[0] for label in families}
    for short in dict.fromkeys(names.values()):
        labels = [label for label, name in names.items() if name == short]
        if len(labels) == 1:
            continue
        options = distinguishing_options([families[label] for label in labels])
        for label, own in zip(labels, options, strict=True):
            shown = "; ".join(f"{path} {value}" for path, value in own.items())
            names[label] = f"{short}; {shown}" if len(own) <= _MOST_OPTIONS else label
    return names
