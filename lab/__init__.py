"""Real kernels for the tests: User-Mode Linux and QEMU, booted with this host's root as theirs."""
