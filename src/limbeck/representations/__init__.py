"""What can be optimised: one file each, found by name."""
