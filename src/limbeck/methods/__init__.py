"""Score distillation methods: one paper, one file, found by name."""
