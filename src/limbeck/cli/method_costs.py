"""Network passes of each method, which `limbeck methods` shows and a test counts again."""

#: Of each method with default options, per particle and step: network calls, rows without
#: gradients and rows with gradients.
COSTS = {
    "asd": (2, 3, 0),
    "bridge": (1, 2, 0),
    "cds": (2, 4, 1),
    "csd": (1, 2, 0),
    "dds": (1, 4, 0),
    "dsd": (7, 13, 0),
    "esd": (1, 2, 0),  # and 2 + 1 of the small U-Net that a small model gets as its critic
    "hifa": (4, 8, 0),
    "irfds": (1, 1, 0),
    "ism": (5, 6, 0),
    "lmc": (1, 2, 0),
    "nfsd": (1, 2, 0),  # a small model cannot read the paper's negative prompt, a third row
    "pds": (1, 4, 0),
    "repulsive": (1, 2, 0),
    "reward-sds": (1, 16, 0),
    "rfds": (1, 2, 0),
    "rfds-rev": (2, 3, 0),
    "sdedit": (30, 60, 0),
    "sdi": (7, 14, 0),
    "sds": (1, 2, 0),
    "sjc": (1, 2, 0),
    "stable-sd": (1, 2, 0),
    "stein": (1, 2, 0),
    "svgd": (1, 2, 0),
    "vsd": (1, 2, 0),
}
