"""What the command line can do: one file per verb, each with ``main(argv)``; its first line is the verb's line in --help."""
