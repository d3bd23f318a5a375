"""The commands: one module each, with ``main(argv)``; its docstring is its line in --help."""
